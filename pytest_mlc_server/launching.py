"""How a handle comes to its server: by starting one, or by attaching to one that is there."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_mlc_server import diagnosis, engines, logs, preflight, slots
from pytest_mlc_server.config import ServerConfig
from pytest_mlc_server.errors import StartError
from pytest_mlc_server.leases import GuardianLostError, Lease
from pytest_mlc_server.warming import Warming

if TYPE_CHECKING:
    from pytest_mlc_server.doors import Door
    from pytest_mlc_server.sharing import Share

#: How much longer than its own time limits the guardian may take before it is given up, seconds.
GUARDIAN_GRACE = 15.0

#: How long a server that waited for its next user may take for each answer when it is examined, in
#: seconds: it is loaded and warm. A new one is there sooner than a wedged one is waited for.
REUSE_DEADLINE = 15.0


class Launching(Warming):
    """A handle that can have its server started."""

    def _open(self, log: str | None = None, config: ServerConfig | None = None) -> Lease:
        """Have a lease of a server that is starting, or of one that is there."""
        __tracebackhide__ = True
        config = config or self.config
        self._plan = engines.plan(
            config,
            extra_env=self._extra_env,
            mark=os.urandom(16).hex(),
            sim_token=self._sim_token,
            device=self._find_device(config),
        )
        self._welcome = self.reused = None
        self._leave_slot()
        lease = None
        if self.share is not None:
            lease = self._open_shared(self.share, config)
        if lease is None:
            if log is None:
                self._check(config)
            with slots.held(self.slots, secrets.token_hex(8)) as held:
                lease = self._order(log or self._new_log(), config, held=held)
        self._begin()
        self.life.begin(lease.mark)
        self._port = config.port
        return lease

    def _check(self, config: ServerConfig) -> None:
        __tracebackhide__ = True
        if config.port != "auto":
            from pytest_mlc_server import shared_servers

            shared_servers.free_port(int(config.port), config.stop_timeout)
        preflight.check(config, self._extra_env)

    def _order(
        self,
        log: str,
        config: ServerConfig,
        door: Door | None = None,
        held: int | None = None,
        **more: Any,
    ) -> Lease:
        plan = self._plan
        self._note_device(log)
        parent = self._parent(plan, config, log)
        order = {**plan.order(config), **more}
        if parent is not None:
            order["parent"] = parent.order()
        return Lease(
            plan.argv,
            plan.env,
            plan.cwd,
            log,
            order,
            secret=plan.secret,
            lock=plan.lock,
            builds=plan.builds.files,
            door=None if door is None else door.listener,
            held=held,
            parent="" if parent is None else parent.socket,
        )

    def _open_shared(self, share: Share, config: ServerConfig) -> Lease | None:
        """Attach to the server that others hold, or start it for all; None if it has its user."""
        from pytest_mlc_server import sharing

        __tracebackhide__ = True
        with sharing.locked(share):
            try:
                found = sharing.attach(share)
            except sharing.BusyError:
                return None
            if found is not None:
                if self.slots is not None:
                    self._slot = self.slots.join(share.key)
                return self._adopt(*found)
            failure = sharing.failure_of(share)
            if failure is not None:
                log = str(failure.get("log", ""))
                raise diagnosis.failed_start(config, self._plan, failure, log, self._secrets())
            self._check(config)
            with slots.held(self.slots, share.key) as held:
                return self._start_shared(share, config, held)

    def _start_shared(self, share: Share, config: ServerConfig, held: int | None) -> Lease:
        """Start a server where others find it. Called with the lock of its key."""
        from pytest_mlc_server import sharing

        __tracebackhide__ = True
        door = sharing.open_door(share, own_log=config.log_dir is None)
        try:
            log = self._new_log(door.log_directory)
            grants = {"api_key": config.api_key, "sim_token": self._sim_token}
            order = door.order(share, grants)
            lease = self._order(log, config, door, held, share=order)
            door.describe(
                engine=config.engine,
                model=self.model,
                device=config.device,
                scope="worker" if share.exclusive else "run",
                log=log,
                stop_timeout=config.stop_timeout,
                **lease.guardian,
            )
        except BaseException:
            door.close(remove=True)
            raise
        door.close(remove=False)
        return lease

    def _adopt(self, lease: Lease, welcome: Mapping[str, Any]) -> Lease:
        """Take over what the guardian of a server that is there knows."""
        self._welcome, self.log_path = welcome, welcome["log"]
        self._sim_token = welcome.get("sim_token", "")
        self.config = self.config.replace(
            api_key=welcome.get("api_key"), origins=self.config.origins
        )
        self._generation = self.restarts = int(welcome["generation"])
        return lease

    def _complete(self) -> None:
        """Wait until the server of a pending lease is ready."""
        __tracebackhide__ = True
        lease, self._pending = self._pending, None
        assert lease is not None  # noqa: S101 - `begin` made it
        log = self.log_path or ""
        try:
            welcome, self._welcome = self._welcome, None
            state = "starting" if welcome is None else welcome["state"]
            if welcome is not None and state == "ready":
                self._take({**welcome["ready"], "event": "ready"})
                problem = "" if welcome["examined"] else self._examine(lease)
                if problem is None:
                    self._pending = self._open()
                    self._complete()
                    return
                if problem:
                    self._again(lease, log, self._port_again(welcome), 0.0, problem)
                elif welcome["waited"] is not None:
                    self.reused = {
                        "started_at": welcome["started_at"],
                        "idle": welcome["waited"],
                        "reset": self.config.enable_debug,
                    }
            elif welcome is not None and state in ("wedged", "exited"):
                self._again(lease, log, self._port_again(welcome), 0.0, state)
            else:
                self._await_ready(lease, self._plan, log)
        except BaseException as error:
            # Ctrl-C included: a holder that gives up waiting gives up the server.
            self._drop(lease)
            if not self._device_is_gone(error):
                raise
            self._launch(log, self.config)
            return
        self._lease, self._distrusts = lease, False
        self._let_parents_go()

    def _examine(self, lease: Lease) -> str | None:
        """Examine a server that had waited as one that has just been started.

        Returns
        -------
        str or None
            What is wrong, empty if nothing is; None if its guardian is gone.
        """
        deadline = min(self.config.startup_timeout, REUSE_DEADLINE)
        lease.send(op="verify", deadline=deadline, reset=self.config.enable_debug)
        with contextlib.suppress(GuardianLostError):
            while (message := lease.next(4 * deadline + GUARDIAN_GRACE)) is not None:
                self._take(message)
                if message["event"] == "verified":
                    return str(message["problem"])
        lease.stop(0.0)
        lease.wait(GUARDIAN_GRACE)
        return None

    def _port_again(self, welcome: Mapping[str, Any]) -> int:
        """Return the port of a server that is started again before anybody knows where it is."""
        return 0 if self.config.port == "auto" else int(welcome["ready"]["port"])

    def _launch(self, log: str, config: ServerConfig) -> None:
        """Start another guardian, and wait until its server is ready."""
        __tracebackhide__ = True
        self._pending = self._open(log, config)
        self._complete()

    def _again(self, lease: Lease, log: str, port: int, timeout: float, reason: str) -> None:
        __tracebackhide__ = True
        if self._guardian_lost:
            # Nobody is there who could start the server again: another guardian is.
            self._drop(lease)
            with contextlib.suppress(OSError), open(log, "a", encoding="utf-8") as file:
                file.write(f"\n--- {reason}; started again ---\n")
            self._launch(log, self.config.replace(port=port))
            return
        self._begin()
        order = {"op": "restart", "port": port, "timeout": timeout, "reason": reason[:200]}
        if lease.shared:
            order["generation"] = self._generation  # whoever asks first has it started for all
        parent = self._parent(self._plan, self.config, log)
        if parent is not None:
            order["parent"] = {**parent.order(), "socket": parent.socket}
        lease.send(**order)
        try:
            self._await_ready(lease, self._plan, log, timeout)
        except BaseException:
            self._drop(lease)
            raise
        self._let_parents_go()

    def _drop(self, lease: Lease) -> None:
        """End a lease whose server did not become ready."""
        self.keep_log = True
        self._lease = None
        self._state = "stopped"
        if lease.shared:
            lease.release(keep_log=True)  # others may still wait for it
        else:
            lease.stop(0.0)
            lease.wait(GUARDIAN_GRACE)
        self._end()

    def _await_ready(
        self, lease: Lease, plan: engines.LaunchPlan, log: str, stop_timeout: float = 0.0
    ) -> None:
        __tracebackhide__ = True
        if self.config.log_live and self._live is None:
            prefix = f"[{self._name}] "
            self._live = logs.LiveLog(log, self.live_output, prefix, self._secrets())
        patience = stop_timeout + self.config.startup_limit + GUARDIAN_GRACE
        while True:
            try:
                message = lease.next(patience)
            except GuardianLostError as error:
                raise self._start_error("the guardian process ended", str(error), log) from None
            if message is None:
                raise self._start_error("the guardian process does not answer", "", log)
            event = message["event"]
            self._take(message)
            if event == "phase" and self.on_phase is not None:
                self.on_phase(" ".join(filter(None, (message["phase"], message.get("detail")))))
            if event == "ready":
                return
            if event == "failed":
                raise diagnosis.failed_start(self.config, plan, message, log, self._secrets())
            if event == "stopped":
                raise self._start_error("the start was interrupted from outside", "", log)

    def _start_error(self, what: str, evidence: str, log: str) -> StartError:
        text = f"the MLC server did not start: {what}\n"
        text += f"{evidence}\nlog: {log}" if evidence else f"log: {log}"
        return StartError(text, log_path=log)


def port_taken(error: StartError) -> bool:
    """Tell whether a start failed because somebody else has its port."""
    return "address already in use" in str(error) or "its port is reserved" in str(error)
