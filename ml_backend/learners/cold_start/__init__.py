"""A first model before any label: a detector that was trained elsewhere. It is told what its classes are
called here, or in words what to look for."""
