"""Many categories, many pictures, many machines; calls only the public API."""
