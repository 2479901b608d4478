"""From noise to data: samplers, where they start, and what that costs."""
