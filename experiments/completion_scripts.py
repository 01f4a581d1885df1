"""The scripts that complete the command line in bash, zsh and fish; they start no Python."""

from collections.abc import Callable, Iterable
from shlex import quote

from experiments.completion import Slot, Verb

BASH = r"""# Completion of rl-unlearn in bash; in ~/.bashrc: source <(rl-unlearn completion bash)
TABLE
_rl_unlearn() {
    local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
    local verb=${COMP_WORDS[1]} otherwise="" slot word words=""
    COMPREPLY=()
    if [[ $current == = ]]; then
        current="" otherwise=@files
    elif [[ $before == = ]]; then
        before=${COMP_WORDS[COMP_CWORD-2]} otherwise=@files
    fi
    if ((COMP_CWORD == 1)); then
        slot=$(_rl_unlearn_slot "" "")
    elif [[ $current == -* ]]; then
        slot=$(_rl_unlearn_slot "$verb" -)
    else
        slot=$(_rl_unlearn_slot "$verb" "$before")
        slot=${slot:-${otherwise:-$(_rl_unlearn_slot "$verb" "")}}
    fi
    for word in $slot; do
        case $word in
        @none) ;;
        @files) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
        @keys)
            if [[ $current == *.* ]]; then word=$(_rl_unlearn_slot @ leaves)
            else word=$(_rl_unlearn_slot @ first); fi
            words+=" $word" ;;
        *) words+=" $word" ;;
        esac
    done
    mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -W "$words" -- "$current")
    [[ ${COMPREPLY[0]} == *[=.] ]] && compopt -o nospace
    return 0
}
complete -F _rl_unlearn rl-unlearn
"""
ZSH = r"""#compdef rl-unlearn
# Completion of rl-unlearn in zsh; in ~/.zshrc after compinit: source <(rl-unlearn completion zsh)
TABLE
_rl_unlearn() {
    local current=$words[CURRENT] before=$words[CURRENT-1] verb=$words[2] slot word
    local -a ends
    local otherwise=""
    if ((CURRENT > 2)) && [[ $current == *=* ]]; then
        before=${current%%=*}
        current=${current#*=}
        otherwise=@files
        compset -P '*='
    fi
    if ((CURRENT == 2)); then
        slot=$(_rl_unlearn_slot "" "")
    elif [[ $current == -* ]]; then
        slot=$(_rl_unlearn_slot "$verb" -)
    else
        slot=$(_rl_unlearn_slot "$verb" "$before")
        slot=${slot:-${otherwise:-$(_rl_unlearn_slot "$verb" "")}}
    fi
    for word in ${=slot}; do
        case $word in
        @none) ;;
        @files) _files ;;
        @keys)
            if [[ $current == *.* ]]; then word=$(_rl_unlearn_slot @ leaves)
            else word=$(_rl_unlearn_slot @ first); fi
            compadd -S '' -- ${=word} ;;
        *) ends+=($word) ;;
        esac
    done
    compadd -a ends
}
compdef _rl_unlearn rl-unlearn
"""
FISH = """# Completion of rl-unlearn in fish; in ~/.config/fish/config.fish:
#     rl-unlearn completion fish | source
"""


def script(shell: str, verbs: list[Verb], values: dict[str, tuple[str, ...]]) -> str:
    """Returns the script for one of SHELLS."""
    return SHELLS[shell](verbs, values)


def _bash(verbs: list[Verb], values: dict[str, tuple[str, ...]]) -> str:
    return BASH.replace("TABLE", _table(verbs, values))


def _zsh(verbs: list[Verb], values: dict[str, tuple[str, ...]]) -> str:
    return ZSH.replace("TABLE", _table(verbs, values))


def _table(verbs: list[Verb], values: dict[str, tuple[str, ...]]) -> str:
    """Returns a function from a verb and the word before to what may stand there."""
    leaves, first = _keys(values)
    rows = {
        " ": [verb.name for verb in verbs],
        "@ leaves": leaves,
        "@ first": first,
    }
    for verb in verbs:
        rows[f"{verb.name} "] = _words(verb.rest)
        rows[f"{verb.name} -"] = [option.flag for option in verb.options]
        rows |= {f"{verb.name} {o.flag}": _words(o.slot) for o in verb.options if o.slot}
    lines = [
        f"    {quote(place)}) echo {quote(' '.join(words))} ;;" for place, words in rows.items()
    ]
    lines += [
        f"    *{quote(f' {key}')}) echo {quote(' '.join(words))} ;;"
        for key, words in values.items()
        if words
    ]
    return "\n".join(['_rl_unlearn_slot() {\n    case "$1 $2" in', *lines, "    esac\n}"])


def _words(slot: Slot) -> list[str]:
    """Returns a slot as words of the table: `@files` and `@keys` stand for what is looked up."""
    special = ["@files"] * slot.files + ["@keys"] * slot.keys
    return [*special, *slot.words] or ["@none"]


def _keys(values: Iterable[str]) -> tuple[list[str], list[str]]:
    """Returns all keys of sections, and what is typed before them: sections, and the other keys."""
    leaves = [f"{key}=" for key in values if "." in key]
    first = [f"{key.partition('.')[0]}." if "." in key else f"{key}=" for key in values]
    return leaves, list(dict.fromkeys(first))


def _fish(verbs: list[Verb], values: dict[str, tuple[str, ...]]) -> str:
    settled = [f"{key}={word}" for key, words in values.items() for word in words]
    keys = [*(f"{key}=" for key in values), *settled]
    lines = ["-f"]  # no files but where they are asked for
    for verb in verbs:
        lines.append(f"-n __fish_use_subcommand -a {verb.name} -d {_fish_quoted(verb.help)}")
        here = f"-n '__fish_seen_subcommand_from {verb.name}'"
        for option in verb.options:
            line = f"{here} -l {option.flag.removeprefix('--')} -d {_fish_quoted(option.help)}"
            if option.slot is not None:
                line += (" -r" if option.slot.files else " -x") + _fish_slot(option.slot)
            lines.append(line)
        rest = Slot((*verb.rest.words, *(keys if verb.rest.keys else ())), verb.rest.files)
        lines.append(here + _fish_slot(rest))
    return FISH + "".join(f"complete -c rl-unlearn {line}\n" for line in lines)


def _fish_slot(slot: Slot) -> str:
    words = f" -a {_fish_quoted(' '.join(slot.words))}" if slot.words else ""
    return " -F" * slot.files + words


def _fish_quoted(text: str) -> str:
    """Returns text in single quotes, in which fish escapes two characters alone."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS: dict[str, Callable[[list[Verb], dict[str, tuple[str, ...]]], str]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}
