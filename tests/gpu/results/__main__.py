"""Writes the newest results into the README."""

from tests.gpu.results.readme import with_results
from tests.support.readme import README

README.write_text(with_results(README.read_text("utf-8")), encoding="utf-8")
