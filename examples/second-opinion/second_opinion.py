"""What two networks see alike: an image shows what both of the canvas's judges believe."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from rl_unlearn.config import Config
    from rl_unlearn.evaluation.judges import ProbabilityJudge


def judge(config: "Config") -> "ProbabilityJudge":
    """Returns a judge: the product of the probabilities of the main judges and of the panel's."""
    from rl_unlearn.evaluation.judges import Judgement, ProbabilityJudge, load_judge

    evaluations = [
        config.evaluation.model_copy(update={"judge": name}) for name in ("canvas", "canvas:panel")
    ]
    members = [load_judge(config.model_copy(update={"evaluation": e})) for e in evaluations]

    def classify(images: "Tensor") -> Judgement:
        seen = [member.classify(images) for member in members]
        first, second = (judgement.log_probs for judgement in seen)
        both = {domain: (first[domain] + second[domain]).log_softmax(dim=1) for domain in first}
        return Judgement(both, seen[0].features)

    return ProbabilityJudge("second_opinion", members[0].feature_extractor, classify)
