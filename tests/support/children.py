"""XLA's flags for processes that tests start: one device, and an older code for loops on a CPU,
which is compiled faster. Its numbers may differ from those of the tests' own process."""

XLA_FLAGS = "--xla_cpu_use_fusion_emitters=false"
