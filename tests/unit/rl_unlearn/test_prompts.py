"""Prompts: who is drawn when, what is a target, and bad files."""

import collections
import re

import pytest
import tiny
from pydantic import ValidationError

from rl_unlearn.config import NAME
from rl_unlearn.errors import ConfigError, DataError
from rl_unlearn.prompt_file import MAX_PROMPTS, read_prompts
from rl_unlearn.prompts import PromptBook


def book(**changes) -> PromptBook:
    return PromptBook.from_config(tiny.config(**changes))


def test_the_grid_of_an_object():
    made = book()
    assert [p.text for p in made.prompts[:3]] == [
        "A cat image in flat style.",
        "A cat image in noto style.",
        "A dog image in flat style.",
    ]
    assert (made.targets, made.retained) == ([0, 1], [2, 3, 4, 5])
    assert [(p.object, p.style) for p in made.prompts] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
        (2, 0),
        (2, 1),
    ]
    assert (made.concepts, made.concept_domain, made.other_domain) == ((0,), "object", "style")
    assert made.phrases["style"] == ("An image in flat style.", "An image in noto style.")


def test_the_grid_of_a_style():
    made = book(concept="style:noto")
    assert (made.targets, made.retained) == ([1, 3, 5], [0, 2, 4])
    assert (made.concepts, made.concept_domain, made.other_domain) == ((1,), "style", "object")


@pytest.mark.parametrize("concept", ["fish,cat", "fish, cat", "object:fish,cat", "fish,cat,fish"])
def test_several_objects(concept):
    made = book(concept=concept)
    assert (made.concepts, made.concept_domain) == ((2, 0), "object"), (
        "in the order given, each once"
    )
    assert (made.targets, made.retained) == ([0, 1, 4, 5], [2, 3])


def test_several_styles():
    made = book(concept="style:noto,style:line", prompts={"styles": ("flat", "line", "noto")})
    assert (made.concepts, made.concept_domain, made.other_domain) == ((2, 1), "style", "object")
    assert made.retained == [0, 3, 6]


@pytest.mark.parametrize(
    ("concept", "said"),
    [
        ("cat,style:flat", "mixes objects and styles"),
        ("style:flat,cat", "mixes objects and styles"),
        ("cat,dgo", "'dgo' is not in this world: did you mean 'dog'?"),
        ("style:flat,noto", "did you mean 'style:noto'"),
        ("style:flat,style:cat", "'style:cat' is not in this world"),
        ("cat,dog,fish", "no prompt is left to retain"),
        ("style:flat,style:noto", "no prompt is left to retain"),
    ],
)
def test_a_wrong_list_of_concepts_is_one_line(concept, said):
    with pytest.raises(ConfigError) as caught:
        book(concept=concept)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "concept",
    ["", " ", ",", "cat,", ",cat", "cat,,dog", "cat,style:", "\x00", "cat,\x1b", "a" * 65,
     "cat," + "a" * 65,
     ",".join(["cat"] * 30_000)],
)  # fmt: skip
def test_a_hostile_list_of_concepts_is_no_configuration(concept):
    with pytest.raises(ValidationError, match="concept"):
        tiny.config(concept=concept)


@pytest.mark.parametrize("concept", ["cat;dog", "cat,../dog", "x:cat", "cat,$(id)"])
def test_what_this_world_does_not_draw_is_no_concept_of_it(concept):
    with pytest.raises(ConfigError, match="is not in this world"):
        book(concept=concept)


@pytest.mark.parametrize(
    "concept", ["cat\n,dog", "cat,dog\n", "cat,  dog", "\u3000cat,\u00a0dog", "cat\x07,dog"]
)
def test_a_concept_is_one_line_of_plain_text(concept):
    assert book(concept=concept).concepts == (0, 1)
    assert re.fullmatch(r"cat ?, ?dog", tiny.config(concept=concept).concept)


NAMES = (
    "Salvador Dalí",
    "Monet's garden",
    "梵高",
    "毕加索",
    "Ван Гог",
    "Star Wars: Episode IV",
    "../x",
    ".hidden",
    "-f",
    "🐈",
)


@pytest.mark.parametrize("concept", NAMES)
def test_concepts_have_the_names_that_people_use(concept, tmp_path):
    assert book(concept=concept, prompts={"objects": (concept, "dog")}).names["object"] == (
        concept,
        "dog",
    )
    files = {"target_file": write(tmp_path, "t.txt", f"a picture of {concept}\n".encode())}
    files["retain_file"] = write(tmp_path, "r.txt", b"a dog\n")
    assert book(concept=concept, prompts=files).names["object"][0] == concept
    name = tiny.config(concept=concept).run_name
    assert re.fullmatch(NAME, name), "it names a folder"
    assert tiny.config(name=name).run_name == name


def test_run_names_of_different_concepts_differ():
    assert len({tiny.config(concept=concept).run_name for concept in NAMES}) == len(NAMES)
    assert tiny.config(concept="Salvador Dalí").run_name.startswith("Salvador-Dali-")
    assert tiny.config(concept="Monet's garden").run_name == "Monet-s-garden-seed0"


SPACES = "\t\u00a0\u2009\u202f\u3000\u2028\u2029\u0085\x0b\x0c\x1c\r"


@pytest.mark.parametrize("space", SPACES)
def test_any_white_space_is_one_space(space, tmp_path):
    line = f"{space}a photo of a{space}{space}cat{space}\n"
    assert read_prompts(write(tmp_path, "p.txt", line.encode())) == ["a photo of a cat"]
    made = book(
        prompts={"template": f"A{space}{{object}}, {{style}}", "objects": (f"cat{space}", "dog")},
        concept="cat",
    )
    assert made.prompts[0].text == "A cat, flat"


def test_letters_are_kept_as_they_are_spelled(tmp_path):
    spelled = ["می‌خواهم", "👩‍🎨", "नमस्ते", "Dalí"]  # with joiners of no width
    assert read_prompts(write(tmp_path, "p.txt", "\n".join(spelled).encode())) == spelled


@pytest.mark.parametrize("kept", ["Cat", " cat ", "CAT", "c\uff41t"])
def test_the_concept_itself_is_not_kept(kept, tmp_path):
    files = {
        "target_file": write(tmp_path, "t.txt", b"a cat\n"),
        "retain_file": write(tmp_path, "r.txt", kept.encode()),
    }
    with pytest.raises(ConfigError, match="the concept to forget: remove it there"):
        book(concept="cat", prompts=files)


@pytest.mark.parametrize("kept", ["a cat", "A  Cat", "a\u00a0cat "])
def test_no_prompt_is_to_be_forgotten_and_kept(kept, tmp_path):
    files = {"target_file": write(tmp_path, "t.txt", b"x\na cat\n")}
    files["retain_file"] = write(tmp_path, "r.txt", f"a dog\n{kept}\n".encode())
    with pytest.raises(
        ConfigError, match=r"'[Aa] +[Cc]at' is to be forgotten and to be kept: remove it"
    ):
        book(concept="cats", prompts=files)


@pytest.mark.parametrize("template", ["a picture", "a picture in {style} style"])
def test_a_template_that_leaves_the_concept_out_is_the_same_mistake(template):
    with pytest.raises(ConfigError, match=r"to be forgotten and to be kept: .*prompts\.template"):
        book(prompts={"template": template})


def test_prompts_that_are_the_same_are_one_class(tmp_path):
    files = {"target_file": write(tmp_path, "t.txt", b"a cat\n")}
    files["retain_file"] = write(tmp_path, "r.txt", b"a dog\nA dog\na fish\na dog\n")
    made = book(concept="cat", prompts=files)
    assert made.names["object"] == ("cat", "a dog", "a fish")
    assert [p.object for p in made.prompts] == [0, 1, 1, 2, 1]


@pytest.mark.parametrize(
    ("section", "key", "values"),
    [
        ("prompts", "objects", ("cat", "dog", "fish", "cat")),
        ("prompts", "objects", ("cat", "dog", "Cat ")),
        ("prompts", "styles", ("flat", "flat")), ("prompts", "styles", ("flat", " ")),
        ("model", "adapters", ("outputs/a", "outputs/a")), (None, "trackers", ("wandb", "wandb")),
    ],
)  # fmt: skip
def test_nothing_stands_twice_in_a_list(section, key, values):
    with pytest.raises(ValidationError, match=rf"{key}[^$]*(twice|empty word)"):
        tiny.config(**({section: {key: values}} if section else {key: values}))


def test_run_names_of_several_concepts_are_folder_names():
    assert tiny.config(concept="cat,dog").run_name == "cat-dog-seed0"
    assert (
        tiny.config(concept="style:flat, style:noto", seed=3).run_name
        == "style-flat--style-noto-seed3"
    )
    many = ",".join(f"object:thing number {n}" for n in range(500))
    name = tiny.config(concept=many, seed=12).run_name
    assert name.endswith("-seed12")
    assert re.fullmatch(r"[A-Za-z0-9._-]+", name)
    assert tiny.config(name=name).run_name == name, "it can be asked for by name, as `resume` does"


def test_the_canvas_is_the_default_world():
    made = book(prompts={"objects": (), "styles": ()})
    assert len(made.prompts) == 160
    assert len(made.targets) == 8


def test_object_prefix_is_the_same_concept():
    assert book(concept="object:cat") == book(concept="cat")


@pytest.mark.parametrize(
    ("concept", "suggestion"),
    [("cta", "'cat'"), ("style:falt", "'style:flat'"), ("noto", "'style:noto'"), ("xyzzy", None)],
)
def test_an_unknown_concept_is_refused_with_a_suggestion(concept, suggestion):
    with pytest.raises(ConfigError) as caught:
        book(concept=concept)
    message = str(caught.value)
    assert "\n" not in message
    assert "cat, dog, fish" in message
    assert (
        (f"did you mean {suggestion}" in message) if suggestion else ("did you mean" not in message)
    )


def test_a_concept_needs_company():
    with pytest.raises(ConfigError, match="retain"):
        book(prompts={"objects": ("cat",)})
    assert book(concept="style:noto", prompts={"objects": ("cat",)}).retained == [0]


@pytest.mark.parametrize(
    "template", ["A {thing}", "A {object", "A {0}", "A {object.nose}", "A {object!z}"]
)
def test_a_bad_template_is_refused(template):
    with pytest.raises(ConfigError, match=r"prompts\.template"):
        book(prompts={"template": template})


@pytest.mark.parametrize(
    ("images", "fraction"), [(8, 0.75), (5, 0.5), (3, 1.0), (1, 0.1), (32, 0.1)]
)
def test_prompts_come_up_equally_often(images, fraction):
    made = book(concept="style:noto")  # 3 targets and 3 retained
    drawn: collections.Counter[int] = collections.Counter()
    for round in range(1, 31):
        part = made.draw(0, round, images, fraction)
        assert len(part) == images
        targets = sum(made.prompts[i].target for i in part)
        assert targets == max(1, int(images * fraction + 0.5))
        drawn.update(part)
        for pool in (made.targets, made.retained):
            counts = [drawn[i] for i in pool]
            assert max(counts) - min(counts) <= 2, f"unbalanced after round {round}: {counts}"


def test_drawing_is_deterministic_and_depends_on_the_seed():
    made = book()
    rounds = [made.draw(0, r, 8, 0.5) for r in range(5)]
    assert rounds == [made.draw(0, r, 8, 0.5) for r in range(5)]
    assert rounds != [made.draw(1, r, 8, 0.5) for r in range(5)]
    assert len({tuple(r) for r in rounds}) > 1


def write(tmp_path, name: str, content: bytes) -> str:
    path = tmp_path / name
    path.write_bytes(content)
    return str(path)


def test_prompt_files(tmp_path):
    target = write(tmp_path, "target.txt", b"a cat on a mat\r\n\n  two cats  \n")
    retain = write(
        tmp_path, "retain.txt", "\ufeffa dog\na fish\x07 in\x1b a bowl\na dog\n".encode()
    )
    made = book(concept="a cat", prompts={"target_file": target, "retain_file": retain})
    assert [p.text for p in made.prompts] == [
        "a cat on a mat",
        "two cats",
        "a dog",
        "a fish in a bowl",
        "a dog",
    ]
    assert made.targets == [0, 1]
    assert made.names["object"] == ("a cat", "a dog", "a fish in a bowl")
    assert [p.object for p in made.prompts] == [0, 0, 1, 2, 1]
    assert (made.concepts, made.concept_domain, made.names["style"]) == (
        (0,),
        "object",
        ("clear", "broken"),
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no prompt"),
        (b"\n \n\x00\x01\n", "no prompt"),
        (b"fine\n\xff\xfe\n", "line 2, is not UTF-8"),
        (b"fine\n" + b"x" * 1_000_000 + b"\n", "line 2, has 1000000 characters"),
        (b"fine\n" + b"x" * 3_000_000 + b"\n", "line 2, is longer"),
        (b"x\n" * (MAX_PROMPTS + 1), "10001 prompts"),
        (b"a short line of text\n" * 60_000, "larger than"),
    ],
    ids=["empty", "blank", "not UTF-8", "1 MB line", "3 MB line", "too many", "too large"],
)
def test_bad_prompt_files(tmp_path, content, words):
    path = write(tmp_path, "prompts.txt", content)
    with pytest.raises(DataError) as caught:
        read_prompts(path)
    message = str(caught.value)
    assert words in message
    assert path in message
    assert "\n" not in message
    assert len(message) < 400


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_prompts(tmp_path / "none.txt")
    with pytest.raises(DataError, match="cannot be read"):
        read_prompts(tmp_path)


def test_an_adapter_that_does_not_say_what_it_forgot_forbids_no_prompt(tmp_path, monkeypatch):
    monkeypatch.setattr("rl_unlearn.prompts.metadata", lambda _: {})
    files = {
        "target_file": write(tmp_path, "target.txt", b"a cat\n"),
        "retain_file": write(tmp_path, "retain.txt", b"a dog\n"),
    }
    assert len(book(concept="cat", prompts=files, model={"adapters": ("foreign",)}).prompts) == 2


@pytest.mark.parametrize("given", ["target_file", "retain_file"])
def test_half_a_pair_of_files(tmp_path, given):
    with pytest.raises(ConfigError, match="go together"):
        book(prompts={given: write(tmp_path, "p.txt", b"a cat\n")})
