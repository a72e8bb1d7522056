"""Make the bucket of GROUNDSWELL_ARTIFACTS_URL if it is not there, then write and read an object in it.

For a store that starts beside this program: it is asked again for a minute. Credentials come from the
environment.
"""

from __future__ import annotations

import os
import sys
import time

import s3fs
from botocore.exceptions import BotoCoreError

from ml_backend.errors import GroundswellError
from sync.artifacts.objects import open_objects


def main() -> int:
    url = os.environ["GROUNDSWELL_ARTIFACTS_URL"]
    bucket = url.removeprefix("s3://").partition("/")[0]
    until = time.monotonic() + float(os.environ.get("WAIT_S", "60"))
    while True:
        try:
            s3fs.S3FileSystem.clear_instance_cache()
            store = s3fs.S3FileSystem()
            if not store.exists(bucket):
                store.mkdir(bucket)
            open_objects(url).check()
        except (GroundswellError, OSError, BotoCoreError) as error:  # the store is not up yet, or refuses
            if time.monotonic() > until:
                # texts of libraries may hold signed addresses
                text = str(error) if isinstance(error, GroundswellError) else type(error).__name__
                print(f"{url} cannot be used: {text}", file=sys.stderr)
                return 1
            time.sleep(1)
        else:
            print(f"{url} can be written and read")
            return 0


if __name__ == "__main__":
    sys.exit(main())
