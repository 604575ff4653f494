"""In-process benchmarks: one small function per row of the table."""
