"""What commands may ask of a running daemon: one function for each order of the control socket.

The one idea: here arguments are checked and answers become plain JSON; what an order does stands in
`hosting/acts.py`. Invariant: whatever a client sends, it gets a result or an error that says what
to do.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from homebox.control import Command, Tell
from homebox.errors import UsageError
from homebox.hosting.acts import Acts
from homebox.hosting.parts import plain


def orders(acts: Acts, status: Callable[[], Any], address: Callable[[], Any]) -> dict[str, Command]:
    """Return what a daemon does for commands, by name; `status` may take long."""

    async def stands(arguments: Mapping[str, Any], tell: Tell) -> Any:
        return await asyncio.to_thread(status)

    async def reached(arguments: Mapping[str, Any], tell: Tell) -> Any:
        return address()

    async def learn(arguments: Mapping[str, Any], tell: Tell) -> Any:
        if arguments.get("dry_run"):
            return plain(await acts.preview())
        return plain(await acts.learn(lambda progress: tell(plain(progress))))

    async def steer(arguments: Mapping[str, Any], tell: Tell) -> Any:
        return await acts.steer(_text(arguments, "order"))

    async def job(arguments: Mapping[str, Any], tell: Tell) -> Any:
        from homebox.learning.jobs.job import read_job

        job = read_job(arguments.get("spec", {}))
        return {"weights": await acts.run_job(job, lambda each: tell(plain(each)))}

    async def rollback(arguments: Mapping[str, Any], tell: Tell) -> Any:
        reason = _text(arguments, "reason")
        return plain(await acts.rollback(_text(arguments, "name"), reason))

    async def import_adapter(arguments: Mapping[str, Any], tell: Tell) -> Any:
        path, name = _text(arguments, "path"), _text(arguments, "name")
        reason = _text(arguments, "reason")
        promote = bool(arguments.get("promote"))
        return plain(await acts.import_adapter(path, name, reason, promote))

    async def reload(arguments: Mapping[str, Any], tell: Tell) -> Any:
        return {"weights": await acts.reload()}

    async def use(arguments: Mapping[str, Any], tell: Tell) -> Any:
        context = arguments.get("context", 0)
        if type(context) is not int:
            raise UsageError("context must be a number")
        kept = _text({"type": "", **arguments}, "type")
        return await acts.use(_text(arguments, "name"), tell, kept, context)

    async def lesson(arguments: Mapping[str, Any], tell: Tell) -> Any:
        return await acts.decide(_text(arguments, "action"), _text(arguments, "prefix"))

    async def edit(arguments: Mapping[str, Any], tell: Tell) -> Any:
        return await acts.edit(_text(arguments, "prefix"), _text(arguments, "value"))

    async def remember(arguments: Mapping[str, Any], tell: Tell) -> Any:
        return await acts.remember(_text(arguments, "text"))

    async def forget(arguments: Mapping[str, Any], tell: Tell) -> Any:
        everywhere = bool(arguments.get("everywhere"))
        return await acts.forget(_text({"name": "", **arguments}, "name"), everywhere)

    async def delete_turns(arguments: Mapping[str, Any], tell: Tell) -> Any:
        return await acts.delete(_text(arguments, "name"))

    return {
        "status": stands,
        "address": reached,
        "learn": learn,
        "steer": steer,
        "job": job,
        "rollback": rollback,
        "import_adapter": import_adapter,
        "reload": reload,
        "use": use,
        "lesson": lesson,
        "edit": edit,
        "remember": remember,
        "forget": forget,
        "delete_turns": delete_turns,
    }


def _text(arguments: Mapping[str, Any], name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str):
        raise UsageError(f"the command needs {name!r}")
    return value
