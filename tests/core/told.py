"""States in which a terminal has been told something."""

from gateway.core.lifecycle import State

ANSWERED_STATES = frozenset(State) - {State.ASKING, State.ASKING_CANCELLED}
