"""The REST API, ``/api/v1``: one router per resource. It only translates between HTTP and the station's parts."""

from fastapi import APIRouter

from anomaly_spotter.service.api import comparisons, datasets, inspections, jobs, models, session, watching
from anomaly_spotter.service.api.answers import PROBLEMS

DESCRIPTION = """Inspect pictures, look inspections up, review them, and train models.

Errors are problem details (RFC 9457, `application/problem+json`)."""

router = APIRouter(prefix="/api/v1", responses=PROBLEMS)
for _resource in (session, models, inspections, comparisons, datasets, jobs, watching):
    router.include_router(_resource.router)
router.include_router(inspections.exports)
root = watching.root
