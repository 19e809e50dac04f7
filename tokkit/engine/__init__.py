"""One way of doing work: plan units, map a pure function over them, commit a manifest last."""
