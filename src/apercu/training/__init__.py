"""What all trainings share: the trainer, the base of their modules, data, settings, callbacks."""
