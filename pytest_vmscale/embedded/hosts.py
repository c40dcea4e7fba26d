"""The machines under the nodes: which have power, and which of their pods' processes have ended by themselves.

An object of the API says what was wanted or reported; this is what is so. Whoever reboots or kills a machine
says it here, and the kubelet, the node lifecycle controller and the guests go by it.
"""

from __future__ import annotations

from collections.abc import Callable


class Hosts:
    """`machines` names all that exist, `down` those without power (or rebooting).

    `said` is what programs that really ran in containers wrote, by the container's id: moments of cluster time, and lines."""

    def __init__(self) -> None:
        self.machines: set[str] = set()
        self.down: set[str] = set()
        self.said: dict[str, list[tuple[float, str]]] = {}
        self._power_listeners: list[Callable[[str, bool], None]] = []
        self._exit_listeners: list[Callable[[str, str, int], None]] = []

    def is_up(self, node: str) -> bool:
        """Whether this node is a machine (an object made by hand is none) and has power."""
        return node in self.machines and node not in self.down

    def on_power(self, listener: Callable[[str, bool], None]) -> None:
        """Call the listener with a node's name and whether it now has power."""
        self._power_listeners.append(listener)

    def on_exit(self, listener: Callable[[str, str, int], None]) -> None:
        """Call the listener with the namespace, name and exit code of a pod whose main process has ended."""
        self._exit_listeners.append(listener)

    def power_off(self, node: str) -> None:
        if node not in self.down:
            self.down.add(node)
            for listener in tuple(self._power_listeners):
                listener(node, False)

    def power_on(self, node: str) -> None:
        if node in self.down:
            self.down.remove(node)
            for listener in tuple(self._power_listeners):
                listener(node, True)

    def pod_exited(self, namespace: str, name: str, exit_code: int = 0) -> None:
        """All containers of this pod have ended by themselves (a virt-launcher whose guest stopped)."""
        for listener in tuple(self._exit_listeners):
            listener(namespace, name, exit_code)
