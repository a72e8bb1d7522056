"""A stand-in for the package ``label-studio-ml`` 2.x: the part of its contract that model classes rely on."""
