"""Admission of claims and claim templates: a review in, a verdict out. Pure."""

from nvdra.webhook.review import Refusal, Verdict, judge
from nvdra.webhook.wire import ReviewError

__all__ = ["Refusal", "ReviewError", "Verdict", "judge"]
