"""The formats that rankings come in and go out in, one a file (docs/labelling-formats.md)."""
