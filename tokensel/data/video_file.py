"""Reading frames of a video file with torchcodec or PyAV, whichever is installed. Both are optional."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from PIL import Image

from tokensel.errors import BadSampleError, TokenselError, first_line

#: Chooses rising indices of frames, from their number.
Choose = Callable[[int], Sequence[int]]
Reader = Callable[[Path, Choose], list[Image.Image]]


def read_frames(path: Path, choose: Choose) -> list[Image.Image]:
    """The chosen frames of a video file, in RGB.

    Raises BadSampleError for a file that is missing or broken; TokenselError if no decoder is installed.
    """
    if not path.exists():
        raise BadSampleError(f"video {path} does not exist")
    read = find_reader()
    try:
        if not path.is_file():
            raise ValueError("is neither a file nor a folder")  # a pipe would be read for ever
        return read(path, choose)
    except Exception as error:  # decoders raise errors of many classes for damaged files
        raise BadSampleError(f"video {path} cannot be read ({first_line(error)})") from error


@cache
def find_reader() -> Reader:
    """Reads frames with the decoder that is installed: torchcodec before PyAV.

    Raises TokenselError, which names both, if there is none.
    """
    for module, read in (("torchcodec.decoders", _with_torchcodec), ("av", _with_pyav)):
        try:
            __import__(module)
        except Exception:  # torchcodec raises errors of several classes where it finds no FFmpeg
            continue
        return read
    raise TokenselError(
        "video: reading video files needs torchcodec (with FFmpeg) or PyAV; pip install av, or give folders of frames"
    )


def _with_torchcodec(path: Path, choose: Choose) -> list[Image.Image]:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), dimension_order="NHWC")
    indices = choose(_at_least_one(len(decoder)))
    return [Image.fromarray(frame.numpy()) for frame in decoder.get_frames_at(list(indices)).data]


def _with_pyav(path: Path, choose: Choose) -> list[Image.Image]:
    import av

    with av.open(str(path)) as container:
        # The number of frames that a header gives may be missing or wrong; counting packets decodes nothing.
        stream = container.streams.video[0]
        total = sum(1 for packet in container.demux(stream) if packet.size and not packet.is_discard)
    wanted = list(choose(_at_least_one(total)))
    frames = {}
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                frames[index] = frame.to_image()
            if index == wanted[-1]:
                break
    if len(frames) < len(wanted):
        raise ValueError(f"ends before frame {wanted[len(frames)] + 1} of {total}")
    return [frames[index] for index in wanted]


def _at_least_one(total: int) -> int:
    if not total:
        raise ValueError("has no frames")
    return total
