"""Rate limits: policies, and the limiter that keeps them across processes. See docs/rate-limits.md."""

from scalable_fastapi_system.infra.rate_limit.decision import Decision
from scalable_fastapi_system.infra.rate_limit.limiter import RateLimiter
from scalable_fastapi_system.infra.rate_limit.policies import Policies, Policy, Rate

__all__ = ["Decision", "Policies", "Policy", "Rate", "RateLimiter"]
