"""What all tests share."""

import os

from hypothesis import HealthCheck, settings

# Machines here are noisy: no test fails because an example was slow. CI repeats the same examples at every run;
# new ones are looked for elsewhere.
settings.register_profile(
    "house",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    derandomize=os.environ.get("CI") == "true",
)
settings.load_profile("house")
