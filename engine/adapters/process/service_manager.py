"""Notifications to systemd: ready, status, watchdog, stopping.

Uses sockets alone: the protocol (sd_notify) is one datagram a message. What is always true: without NOTIFY_SOCKET in
the environment nothing happens, and a service manager that does not listen never disturbs the process.
"""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from crashfold.engine.core.health import Health
from crashfold.engine.ports import Clock
from crashfold.engine.settings import masked_text

TELL_EVERY_S: Final = 5.0
"""How often the status is told when no watchdog asks for more."""
STATUS_CHARACTERS_MAX: Final = 200


class ServiceManager:
    """Tells systemd how the process is, by the socket that `environment` names; does nothing when it names none."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        is_ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watchdog_us = environment.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(watchdog_us) / 1e6 if is_ours and watchdog_us.isdecimal() else 0.0
        """Systemd restarts the process when it hears nothing for so long; 0: it does not watch."""

    def __bool__(self) -> bool:
        return bool(self._address)

    def tell(self, **states: str) -> None:
        """Send these states, as `READY="1"`. A manager that is gone, or whose buffer is full, misses them."""
        if not self._address:
            return
        message = "\n".join(f"{name}={value}" for name, value in states.items())
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
            sending.setblocking(False)
            sending.sendto(message.encode(), self._address)


async def tell_service_manager(health: Health, clock: Clock, manager: ServiceManager | None = None) -> None:
    """Tell the service manager that the process runs, then how it is; when cancelled, that it ends.

    Returns at once when there is none. Ready means running: an engine that waits for Kafka has started, and a restart
    would not help. The watchdog is fed while `health` says that the process is alive.
    """
    manager = manager or ServiceManager()
    if not manager:
        return
    manager.tell(READY="1", MAINPID=str(os.getpid()))
    every_s = min(TELL_EVERY_S, manager.watchdog_s / 3) if manager.watchdog_s else TELL_EVERY_S
    try:
        while True:
            status = "; ".join(health.ready()) or "working"
            manager.tell(STATUS=masked_text(status).replace("\n", " ")[:STATUS_CHARACTERS_MAX])
            if manager.watchdog_s and not health.live():
                manager.tell(WATCHDOG="1")
            await clock.sleep(every_s)
    finally:
        manager.tell(STOPPING="1")
