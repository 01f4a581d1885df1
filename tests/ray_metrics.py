"""Metrics of Ray itself."""

FROM_RAY = {
    "ray_actors", "ray_node_disk_free", "ray_node_disk_utilization_percentage",
    "ray_node_mem_total",
    "ray_node_mem_used",
}  # fmt: skip
"""Ray's own that are asked for; the slow test reads them from a real node."""
