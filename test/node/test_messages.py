from array import array

from ffs_anonymizer.frames.raw import as_buffer
from ffs_anonymizer.node.messages import put_data
import pytest
from sensor_msgs.msg import Image


@pytest.mark.parametrize('data', [b'', b'new', bytearray(b'new'), memoryview(b'new')])
def test_other_bytes_become_the_data_of_a_message(data: bytes) -> None:
    message = Image(data=array('B', b'old data'))
    put_data(message, data)
    assert message.data == array('B', bytes(data))


def test_its_own_bytes_stay_where_they_are() -> None:
    message = Image(data=array('B', b'old data'))
    own = message.data
    put_data(message, as_buffer(own))
    assert message.data is own
