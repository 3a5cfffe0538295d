"""Energy meters: RAPL, perf_event, NVML, utilisation models and replayed traces, and how one is selected."""
