"""The figures of an evaluation by the names that people read; `rl_unlearn.evaluation.comparison`
defines them.
"""

HEADLINE = {"ua": "UA", "coherence": "Coherence", "ira": "IRA", "cra": "CRA"}
"""The four that belong together: what is forgotten, whether it is only broken, and what is kept."""
FURTHER = {
    "target_object": "Object on its prompts",
    "target_style": "Style on its prompts",
    "anchor": "Anchor",
    "spread": "Spread",
    "anchor_kid": "Anchor KID",
    "ira_near": "IRA near",
    "ira_far": "IRA far",
    "ira_all": "IRA all",
    "cra_all": "CRA all",
    "similarity": "CLIP similarity",
    "clip_score": "CLIP score",
    "kid": "KID",
    "fid": "FID",
}
