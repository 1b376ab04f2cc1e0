"""What a run would need and how fast it would be, from its compiled step, before any accelerator is paid for."""
