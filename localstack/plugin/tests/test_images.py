import json
from pathlib import Path

import boto3
import pytest
from local_cloud import make_zip
from moto import mock_aws

from process_cloud.images import ImageError, ImageStore, parse_description

DESCRIPTION = {"python": "3.12", "working_dir": "app", "command": ["python", "-m", "a"]}


@pytest.fixture
def s3():
    with mock_aws():
        client = boto3.client(
            "s3",
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        client.create_bucket(Bucket="images")
        yield client


def put(s3, **files: str) -> None:
    described = {"image.json": json.dumps(DESCRIPTION)}
    s3.put_object(Bucket="images", Key="a.zip", Body=make_zip({**described, **files}))


def test_an_image_is_unzipped_and_read(s3, tmp_path: Path) -> None:
    put(s3, **{"app/a.py": "1"})
    image = ImageStore(tmp_path).pull("s3://images/a.zip", s3)
    assert (image.root / "app" / "a.py").read_text() == "1"
    assert image.python == "3.12"
    assert image.working_directory == image.root / "app"
    assert image.argv(None, None) == ["python", "-m", "a"]


def test_the_same_content_is_pulled_once_and_new_content_again(s3, tmp_path: Path) -> None:
    put(s3, x="1")
    store = ImageStore(tmp_path)
    first = store.pull("s3://images/a.zip", s3).root
    (first / "mark").touch()
    assert store.pull("s3://images/a.zip", s3).root == first
    assert (first / "mark").exists()
    put(s3, x="2")
    second = store.pull("s3://images/a.zip", s3).root
    assert second != first
    assert (second / "x").read_text() == "2"


def test_another_entry_point_drops_the_image_s_command(tmp_path: Path) -> None:
    text = '{"python": "3.12", "entrypoint": ["e"], "command": ["c"]}'
    image = parse_description(text, tmp_path)
    assert image.argv(None, None) == ["e", "c"]
    assert image.argv(None, ["x"]) == ["e", "x"]
    assert image.argv(["y"], None) == ["y"]
    assert image.argv(["y"], ["x"]) == ["y", "x"]


@pytest.mark.parametrize(
    "image", ["nginx:latest", "s3://images", "s3:///a.zip", "s3://images/missing.zip"]
)
def test_what_can_not_be_pulled_is_named(s3, tmp_path: Path, image: str) -> None:
    with pytest.raises(ImageError, match=f"CannotPullContainerError: {image}"):
        ImageStore(tmp_path).pull(image, s3)


@pytest.mark.parametrize("body", [b"no zip", make_zip({"a": "b"}), make_zip({"image.json": "[]"})])
def test_a_broken_image_is_refused(s3, tmp_path: Path, body: bytes) -> None:
    s3.put_object(Bucket="images", Key="a.zip", Body=body)
    with pytest.raises(ImageError, match="CannotPullContainerError"):
        ImageStore(tmp_path).pull("s3://images/a.zip", s3)


def test_nothing_is_unzipped_outside_the_image(s3, tmp_path: Path) -> None:
    put(s3, **{"../../outside": "1"})
    ImageStore(tmp_path / "store").pull("s3://images/a.zip", s3)
    assert not (tmp_path / "outside").exists()


def test_half_pulled_images_are_removed_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "part-x").mkdir()
    ImageStore(tmp_path)
    assert list(tmp_path.iterdir()) == []
