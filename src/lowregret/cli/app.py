"""The program `lowregret VERB`, made from the registry of verbs; a verb's module is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from cyclopts import App, CycloptsError, MissingArgumentError, Parameter, UnusedCliTokensError

from lowregret.cli.codes import BAD_INPUT
from lowregret.cli.options import OPTIONS
from lowregret.cli.outcome import aside, exit_codes
from lowregret.cli.verbs import VERBS, Verb
from lowregret.version import __version__

_SUMMARY = "LoRA or full fine-tuning? Measure the regret, with an error bar."
_READ_MORE = "Every key, flag, default and bound: docs/reference/ in the repository. A start: lowregret recipes."


def make_app(asked: str = "") -> App:
    """The parser of the command line; nothing of a verb is imported yet.

    The verb that is asked for tells more about itself than its line in the list.
    """
    app = App(
        name="lowregret",
        help=_SUMMARY,
        help_format="plaintext",
        help_epilogue=_READ_MORE,
        version=f"lowregret {__version__}",
        version_format="plaintext",
        version_flags="--version",
        help_flags=("--help", "-h"),
        group_parameters=OPTIONS,
        # A switch has no opposite, the last of several wins, and the sentence of an option says its default.
        default_parameter=Parameter(negative=(), allow_repeating=True, show_default=False),
    )
    for order, verb in enumerate(VERBS.values()):
        summary = None if verb.name == asked else verb.summary
        app.command(verb.import_path, name=verb.name, help=summary, sort_key=order)
    app.register_install_completion_command(help="Complete verbs and flags with Tab in bash, zsh, fish or PowerShell.")
    return app


def _options(app: App, verb: Verb) -> list[str]:
    """What a verb may be told, by name."""
    return [name for argument in app[verb.name].assemble_argument_collection() for name in argument.names]


def _sentence(app: App, verb: Verb | None, error: CycloptsError) -> str:
    """What is wrong with the command, in the words of an error.

    A mistyped `--otu` is why --out is missing, and the better thing to be told.
    """
    left = error.unused_tokens or []
    if isinstance(error, UnusedCliTokensError):
        from lowregret.data.readers.registry import is_data

        several = "Several files go into one --data, with commas between or as a pattern in quotes."
        read = verb is not None and "--data" in _options(app, verb) and all(map(is_data, left))
        return f"unexpected {' '.join(left)!r}. {several if read else 'Leave it out.'}"
    if verb is None or error.argument is None or not isinstance(error, MissingArgumentError):
        return str(error)
    known = _options(app, verb)
    options = [token.partition("=")[0] for token in left if token.startswith("--")]
    unknown = [option for option in options if option not in known]
    if unknown:
        near = get_close_matches(unknown[0], known, n=1)
        return f"Unknown option: {unknown[0]}." + (f" Did you mean {near[0]}?" if near else "")
    if error.argument.name in options or error.keyword is not None:
        return f"{error.keyword or error.argument.name} needs a value."
    return f"missing {error.argument.name.rstrip('.')}."


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code. Without arguments: the help, as an error."""
    verb = VERBS.get(arguments[0]) if arguments else None
    try:
        with exit_codes(resumable=verb is not None and verb.resumable):
            app = make_app(asked=verb.name if verb else "")
            if verb is not None and list(arguments[1:]) in (["-h"], ["--help"]):
                app.help_print([verb.name])  # what parsing comes to, and sooner
                return 0
            try:
                command, bound, _ = app.parse_args(list(arguments), print_error=False, exit_on_error=False)
            except CycloptsError as error:
                where = f"lowregret {verb.name}" if verb else "lowregret"
                aside(f"error: {_sentence(app, verb, error)}\nSee `{where} --help`.")
                return BAD_INPUT
            command(*bound.args, **bound.kwargs)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0 if arguments else BAD_INPUT
