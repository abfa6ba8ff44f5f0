"""What commands may ask of a running daemon: one function for each order of the control socket.

The one idea: here arguments are checked and answers become plain JSON; what an order does stands in
the daemon. Invariant: whatever a client sends, it gets a result or an error that says what to do.
"""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from homebox.control import Command, Tell
from homebox.errors import UsageError
from homebox.hosting.parts import plain

if TYPE_CHECKING:
    from homebox.daemon import Daemon


def orders(daemon: "Daemon") -> dict[str, Command]:
    """Return what the daemon does for commands, by name."""

    async def status(arguments: Mapping[str, Any], tell: Tell) -> Any:
        return await asyncio.to_thread(daemon.status)

    async def address(arguments: Mapping[str, Any], tell: Tell) -> Any:
        return {"url": daemon.url, "token": daemon.token, "certificate": daemon.certificate}

    async def learn(arguments: Mapping[str, Any], tell: Tell) -> Any:
        if arguments.get("dry_run"):
            return plain(await daemon.preview())
        return plain(await daemon.learn(lambda progress: tell(plain(progress))))

    async def steer(arguments: Mapping[str, Any], tell: Tell) -> Any:
        return await daemon.steer(_text(arguments, "order"))

    async def job(arguments: Mapping[str, Any], tell: Tell) -> Any:
        from homebox.learning.jobs.job import read_job

        job = read_job(arguments.get("spec", {}))
        return {"weights": await daemon.run_job(job, lambda each: tell(plain(each)))}

    async def rollback(arguments: Mapping[str, Any], tell: Tell) -> Any:
        reason = _text(arguments, "reason")
        return plain(await daemon.rollback(_text(arguments, "name"), reason))

    async def import_adapter(arguments: Mapping[str, Any], tell: Tell) -> Any:
        path, name = _text(arguments, "path"), _text(arguments, "name")
        reason = _text(arguments, "reason")
        promote = bool(arguments.get("promote"))
        return plain(await daemon.import_adapter(path, name, reason, promote))

    async def reload(arguments: Mapping[str, Any], tell: Tell) -> Any:
        return {"weights": await daemon.reload()}

    async def use(arguments: Mapping[str, Any], tell: Tell) -> Any:
        context = arguments.get("context", 0)
        if type(context) is not int:
            raise UsageError("context must be a number")
        kept = _text({"type": "", **arguments}, "type")
        return await daemon.use(_text(arguments, "name"), tell, kept, context)

    async def lesson(arguments: Mapping[str, Any], tell: Tell) -> Any:
        return await daemon.decide(_text(arguments, "action"), _text(arguments, "prefix"))

    async def edit(arguments: Mapping[str, Any], tell: Tell) -> Any:
        return await daemon.edit(_text(arguments, "prefix"), _text(arguments, "value"))

    async def remember(arguments: Mapping[str, Any], tell: Tell) -> Any:
        return await daemon.remember(_text(arguments, "text"))

    async def forget(arguments: Mapping[str, Any], tell: Tell) -> Any:
        return await daemon.forget(_text(arguments, "name"), bool(arguments.get("everywhere")))

    async def delete_turns(arguments: Mapping[str, Any], tell: Tell) -> Any:
        return await daemon.delete(_text(arguments, "name"))

    return {
        "status": status,
        "address": address,
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
