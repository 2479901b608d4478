"""How data are noised: schedules, the process that one defines, and times."""
