"""More like this: what looks like the first drawn masks is offered on other pictures, before any model."""
