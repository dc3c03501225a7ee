"""Ray's job server, seen by us: the token goes along, every request has a timeout, every failure is a ZjError.

Whatever of Ray's job API changes with its version changes here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from zj_ray.cluster.connect import TOKEN_REMEDY, auth_token
from zj_ray.errors import ConfigError, WaitTimeout, ZjError
from zj_ray.runs.status import JOB_STATES

REQUEST_SECONDS = 60.0
POLL_SECONDS = 0.5
AGENT_SECONDS = 30.0  # a head node that has just started has no agent yet that could take a job
NO_AGENT = "No available agent"
AGENT_REMEDY = (
    "see its dashboard; a second Ray on one machine needs a port of its own: ray start --dashboard-agent-listen-port"
)


class _TimedClient(JobSubmissionClient):
    """Ray's client waits for ever for a head node that hangs."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        try:
            return super()._do_request(method, endpoint, timeout=REQUEST_SECONDS, **options)
        except requests.exceptions.ReadTimeout as error:
            what, remedy = f"no answer within {REQUEST_SECONDS:g} s", "check the cluster's head node"
            raise WaitTimeout(what, where=self._address, remedy=remedy) from error


class JobServer:
    def __init__(self, address: str) -> None:
        """address: URL of the dashboard.

        Raises ConfigError for anything but a URL, ZjError where no job server answers or it refuses us.
        """
        if urlsplit(address).scheme not in ("http", "https"):
            what, remedy = f"{address!r} is no URL of a dashboard", "for example http://head:8265"
            raise ConfigError(what, where="--address", remedy=remedy)
        logging.getLogger("ray").setLevel(logging.WARNING)
        self.address = address
        token = auth_token()
        try:
            self._client = _TimedClient(address, headers={"Authorization": f"Bearer {token}"} if token else None)
        except ConnectionError as error:
            remedy = "check the address (it is the dashboard's port, 8265 by default) and that the head node runs"
            raise ZjError("no Ray job server answers", where=address, remedy=remedy) from error
        except AuthenticationError as error:
            raise ZjError(_first_line(error), where=address, remedy=TOKEN_REMEDY) from error
        except (RuntimeError, requests.exceptions.RequestException) as error:
            what = f"this is no Ray job server: {_first_line(error)}"
            raise ZjError(what, where=address, remedy="give the dashboard's URL") from error

    def submit(
        self, job_id: str, entrypoint: str, *, working_dir: str, variables: dict[str, str], metadata: dict[str, str]
    ) -> None:
        """Start a job. Raises ZjError if the cluster refuses it, or has no agent that takes it within AGENT_SECONDS."""
        deadline = time.monotonic() + AGENT_SECONDS
        while True:
            try:
                self._client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=job_id,
                    runtime_env={"working_dir": working_dir, "env_vars": variables},
                    metadata=metadata,
                )
                return
            except RuntimeError as error:
                starting = NO_AGENT in str(error)
                if not starting or time.monotonic() > deadline:
                    what = f"the cluster refuses the job: {_first_line(error)}"
                    remedy = AGENT_REMEDY if starting else "see its dashboard"
                    raise ZjError(what, where=self.address, remedy=remedy) from error
            time.sleep(POLL_SECONDS)

    def state(self, job_id: str) -> str:
        """PENDING, RUNNING or one of JOB_STATES. Raises ZjError for a job that the cluster does not know."""
        return self._tell(job_id, self._client.get_job_status).value

    def output(self, job_id: str) -> str:
        return self._tell(job_id, self._client.get_job_logs)

    def follow(self, job_id: str, show: Callable[[str], None]) -> None:
        """Give the job's output to `show` as it comes, until the job ends. Raises ZjError if the connection breaks.

        A job may say nothing for hours, so silence alone ends nothing. But a connection whose other end is gone is
        silent too: meanwhile the job server is asked, and WaitTimeout raised if it does not answer, or knows that the
        job has ended.
        """

        async def tail() -> None:
            texts = self._client.tail_job_logs(job_id)
            while True:
                coming = asyncio.ensure_future(anext(texts, None))
                ended = False
                while not (await asyncio.wait({coming}, timeout=REQUEST_SECONDS))[0]:
                    if ended:
                        what = f"job {job_id} has ended, but its output did not within {REQUEST_SECONDS:g} s"
                        raise WaitTimeout(what, where=self.address, remedy="see all of it with: zj logs RUN")
                    ended = self.state(job_id) in JOB_STATES
                if (text := await coming) is None:
                    return
                show(text)

        try:
            asyncio.run(tail())
        except RuntimeError as error:
            what, remedy = f"lost the job's output: {_first_line(error)}", "ask again with: zj logs RUN -f"
            raise ZjError(what, where=self.address, remedy=remedy) from error

    def stop(self, job_id: str, *, seconds: float) -> None:
        """End a job and wait until it has ended. Raises WaitTimeout after `seconds`."""
        self._tell(job_id, self._client.stop_job)
        deadline = time.monotonic() + seconds
        while self.state(job_id) not in JOB_STATES:
            if time.monotonic() > deadline:
                what, remedy = f"job {job_id} did not end within {seconds:g} s", "look at it in the dashboard"
                raise WaitTimeout(what, where=self.address, remedy=remedy)
            time.sleep(POLL_SECONDS)

    def _tell(self, job_id: str, call: Callable[[str], Any]) -> Any:
        """What the cluster tells of a job. Raises ZjError where it can't."""
        try:
            return call(job_id)
        except (RuntimeError, requests.exceptions.ConnectionError) as error:
            what = f"the cluster can't tell about job {job_id}: {_first_line(error)}"
            remedy = "if the cluster was made anew, submit the run again"
            raise ZjError(what, where=self.address, remedy=remedy) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
