"""A compilation as one web page: every level and pass, from the user's layers down to assembly, and back."""

from stepwell.explore.page import write_page
from stepwell.explore.recording import Recording, record

__all__ = ["Recording", "record", "write_page"]
