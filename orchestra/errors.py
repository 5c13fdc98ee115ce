"""Every exception Orchestra raises, in one tree.

::

    OrchestraError
    ├── WorkflowError          the declaration is wrong: raised when a workflow is declared or compiled
    │   └── PlanError          a plan breaks its rules (cycle, dangling need, unknown agent, …)
    │       └── NoPlan         a planner has no plan for this request; the workflow's own stands in, if it has one
    ├── WorkflowNotFound       a reference such as ``file.py:flow`` leads nowhere
    ├── RequestError           the request can't be worked on; raised before any agent runs
    ├── ReplayDiverged         a replayed run asks something else than the recorded one did
    ├── ThreadError            the thread is not in a state for this call
    │   ├── ThreadBusy         another run is on it now
    │   ├── ThreadWaiting      a person's answer is still open
    │   └── ThreadNotFound     nothing is stored under this name
    └── AgentError             an agent did not deliver; ends up in a ``Result``, not in the caller's face
        ├── AttemptTimeout     the work took longer than the agent's timeout
        ├── AttemptOver        nobody waits any more for what a thread does: raised by ``safe_point()`` in it
        ├── MalformedOutput    the output is not of the declared type
        │   ├── UnstorableOutput   it is, but it can't be stored and read back
        │   └── Irreparable        a model's answers were malformed however it was asked; asking anew would not help
        ├── PersonRefused      a person did not permit it: nobody else is asked, and no other agent tries
        ├── NoCapableAgent     nobody on the roster can do the task
        ├── ModelRefused       a model declined to answer; asking it again would not help
        ├── BudgetExceeded     a budget does not allow what the agent was about to do
        └── TaskUnsuccessful   raised by ``Result.unwrap()`` and by a team whose wanted task did not succeed
"""

from __future__ import annotations


class OrchestraError(Exception):
    """Base of everything Orchestra raises on purpose."""


class WorkflowError(OrchestraError):
    """A workflow is declared in a way that cannot run."""


class PlanError(WorkflowError):
    """A plan breaks its rules: a cycle, a dangling need, an unknown agent, too many tasks."""


class NoPlan(PlanError):
    """A planner has no plan for a request."""


class WorkflowNotFound(OrchestraError):
    """No workflow is found under the given reference."""


class RequestError(OrchestraError):
    """A request cannot be worked on; nothing was started and nothing was stored."""


class ReplayDiverged(OrchestraError):
    """A run that is played back asks something else than it did when it was recorded."""


class ThreadError(OrchestraError):
    """A thread is not in a state that allows this call."""


class ThreadBusy(ThreadError):
    """Another run is working on this thread."""


class ThreadWaiting(ThreadError):
    """The thread waits for a person's answer, so a new request would drop an open question."""


class ThreadNotFound(ThreadError):
    """Nothing is stored under this thread's name."""


class AgentError(OrchestraError):
    """An agent did not deliver what its task asked for."""


class AttemptTimeout(AgentError):
    """An agent's work took longer than its timeout."""


class AttemptOver(AgentError):
    """Nobody waits any more for what this thread does: its attempt was cancelled, or has timed out."""


class MalformedOutput(AgentError):
    """An agent returned something that is not of its declared output type."""


class UnstorableOutput(MalformedOutput):
    """An agent returned something that can't be stored as JSON and read back; trying again would not help."""


class Irreparable(MalformedOutput):
    """A model's answers were malformed, and stayed so when it was told what was wrong."""


class NoCapableAgent(AgentError):
    """No agent on the roster can do the task."""


class PersonRefused(AgentError):
    """A person did not permit the work, or has ended it."""


class ModelRefused(AgentError):
    """A model declined to answer, or a filter withheld its answer."""


class BudgetExceeded(AgentError):
    """A budget does not allow the call that an agent was about to make."""


class TaskUnsuccessful(AgentError):
    """The output of a task that did not succeed was asked for."""
