"""Models from outside the package, one file and one YAML each; see docs/guides/outside_model.md."""
