"""How a gRPC channel to a Saccade service is set up: load balancing, health, retries and message sizes."""

import json
from typing import Final

__all__ = ["BULK_METADATA", "BYTES_KEY", "LANE_KEY", "MAX_MESSAGE_BYTES", "PEOPLE_KEY", "channel_options"]

LANE_KEY: Final = "saccade-lane"
"""Metadata by which a service knows a call's lane before it has read the request: absent, or `bulk`."""
BYTES_KEY: Final = "saccade-bytes"
"""Metadata by which a service knows how long a request is, at most, before it has read it."""
PEOPLE_KEY: Final = "saccade-people"
"""Metadata by which the embedder tells those who ask for bulk work that people are waiting too."""
BULK_METADATA: Final = ((LANE_KEY, "bulk"),)

# Room for the largest image that a service accepts, and for a bulk call of many. Larger messages end in
# RESOURCE_EXHAUSTED below the application, so every service checks sizes itself well before this.
MAX_MESSAGE_BYTES: Final = 80 * 1024 * 1024

_SERVICE_CONFIG: Final = {
    "loadBalancingConfig": [{"round_robin": {}}],
    # The empty name is the whole server: a replica that drains or whose model is gone gets no new calls.
    "healthCheckConfig": {"serviceName": ""},
    "methodConfig": [
        {
            "name": [{}],
            # UNAVAILABLE before any answer means that no handler ran to its end. Every write in the contracts may
            # be repeated, so this is safe for all calls. Overload answers RESOURCE_EXHAUSTED and is not in the list.
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 20, "tokenRatio": 0.2},
}


def channel_options() -> list[tuple[str, str | int]]:
    """Options for a channel, aio or not, to any Saccade service; use with a `dns:///host:port` target."""
    return [
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        # Find a dead peer behind a silent network, also between calls.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    ]
