"""Load on a gateway, what it costs, and what that is worth beside others: `holdfast-bench run`, `limits`, `peers`."""
