"""The program in which chat templates are rendered: a template is code from whoever published the model.

It runs as a script of its own, without the rest of the package, reads one JSON request a line and answers each with one
line. Jinja's sandbox keeps a template from everything outside; the limits here keep it from time and memory. The
environment is that of `transformers.utils.chat_template_utils`.
"""

import contextlib
import functools
import json
import resource
import signal
import sys
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox

MEMORY = 1 << 30  # bytes of address space
LONGEST = 1 << 24  # characters of a rendered conversation


class Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}`: around what the assistant has written."""

    tags = {"generation"}  # noqa: RUF012

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        environment.extend(spans=[], blocks=[])

    def parse(self, parser: Any) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_span"), [], [], body).set_lineno(line)

    def _span(self, caller: Any) -> str:
        said = caller()
        start = len("".join(self.environment.blocks))  # type: ignore[attr-defined]
        self.environment.spans.append((start, start + len(said)))  # type: ignore[attr-defined]
        return said


class Dict:
    """`dict`, without the attributes of the class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Without Jinja's escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def stop(message: str) -> None:
    raise jinja2.TemplateError(message)


@functools.lru_cache(maxsize=8)
def compiled(source: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {"raise_exception": stop, "strftime_now": lambda form: datetime.now().strftime(form)}
    environment.globals["dict"] = Dict()
    return environment.from_string(source)


def render(template: jinja2.Template, variables: dict[str, Any]) -> tuple[str, list[tuple[int, int]]]:
    """The text, and where in it the spans of `{% generation %}` are."""
    environment: Any = template.environment
    environment.spans.clear()
    environment.blocks.clear()
    size = 0
    for block in template.generate(**variables):
        size += len(block)
        if size > LONGEST:
            raise jinja2.TemplateError(f"it renders more than {LONGEST} characters")
        environment.blocks.append(block)
    return "".join(environment.blocks), list(environment.spans)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        template = compiled(request["template"])
        return {"rendered": [render(template, variables) for variables in request["variables"]]}
    except MemoryError:
        return {"error": f"it needs more than {MEMORY >> 20} MiB"}
    except RecursionError:
        return {"error": "it calls itself without end"}
    except Exception as error:
        return {"error": str(error)[:500] or type(error).__name__}


def main() -> None:
    with contextlib.suppress(ValueError, OSError):  # where the system has no such limit, time is limited still
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    seconds = int(sys.argv[1])
    for line in sys.stdin:
        signal.alarm(seconds)  # ends this program, should nobody wait for the answer any more
        reply = json.dumps(answer(json.loads(line)))
        signal.alarm(0)
        print(reply, flush=True)


if __name__ == "__main__":
    main()
