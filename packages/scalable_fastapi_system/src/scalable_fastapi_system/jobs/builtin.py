"""The platform's own job kinds: importing this module declares them."""

from scalable_fastapi_system.jobs.background import process_data
from scalable_fastapi_system.jobs.webhooks import deliver

BUILTIN = (process_data, deliver)
