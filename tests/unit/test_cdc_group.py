"""What a capture worker says of itself when it joins its group."""

from kafka import TopicPartition
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment

from cdc.group import _Listener

TOPIC = "hub.main"


def claims(listener: _Listener) -> list[str]:
    return [one.topic for one in listener.assignor.metadata({TOPIC}).owned_partitions]


def test_what_was_lost_is_not_claimed_any_more() -> None:
    """Of a topic that two members claim, the assignor may leave both without it, and nobody asks again."""
    listener = _Listener()
    listener.assignor.on_assignment(ConsumerProtocolAssignment(1, [(TOPIC, [0])], b""), 7)
    assert claims(listener) == [TOPIC]

    listener.on_partitions_lost([TopicPartition(TOPIC, 0)])

    assert claims(listener) == []
