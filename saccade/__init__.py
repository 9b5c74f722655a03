"""Saccade: finds images by what is in them."""

from saccade.client import AsyncClient, Client
from saccade.errors import ApiError
from saccade.requests import NewImage, make_index, make_part, make_region, make_relation
from saccade.upload import StreamResult

__all__ = [
    "ApiError",
    "AsyncClient",
    "Client",
    "NewImage",
    "StreamResult",
    "make_index",
    "make_part",
    "make_region",
    "make_relation",
]
