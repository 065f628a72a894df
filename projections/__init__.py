"""The read side of Runfold and the daemon: rows that are folds of the log, workers that survive being killed."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from projections.attempt import Answer, Attempt
    from projections.connecting import App, aconnect, connect, restore
    from projections.daemon import Worker, stop_on_sigterm
    from projections.delegation import Child
    from projections.projection import Projection
    from projections.rebuilding import Report
    from projections.recovery import Recovery
    from projections.retention import Retention
    from projections.runs import Runs
    from projections.system import System
    from projections.tables import Range
    from projections.views import View
else:
    from eventstore.facing import face

    __getattr__, __dir__ = face(
        "projections",
        {
            "attempt": ("Answer", "Attempt"),
            "connecting": ("App", "aconnect", "connect", "restore"),
            "daemon": ("Worker", "stop_on_sigterm"),
            "delegation": ("Child",),
            "projection": ("Projection",),
            "rebuilding": ("Report",),
            "recovery": ("Recovery",),
            "retention": ("Retention",),
            "runs": ("Runs",),
            "system": ("System",),
            "tables": ("Range",),
            "views": ("View",),
        },
    )


__all__ = [
    "Answer",
    "App",
    "Attempt",
    "Child",
    "Projection",
    "Range",
    "Recovery",
    "Report",
    "Retention",
    "Runs",
    "System",
    "View",
    "Worker",
    "aconnect",
    "connect",
    "restore",
    "stop_on_sigterm",
]
