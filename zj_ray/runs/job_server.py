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

REQUEST_SECONDS = 60.0
POLL_SECONDS = 0.5
AGENT_SECONDS = 30.0  # a head node that has just started has no agent yet that could take a job
NO_AGENT = "No available agent"
AGENT_REMEDY = (
    "see its dashboard; a second Ray on one machine needs a port of its own: ray start --dashboard-agent-listen-port"
)
ENDED = ("STOPPED", "SUCCEEDED", "FAILED")  # Ray's final states of a job


class _TimedClient(JobSubmissionClient):
    """Ray's client waits for ever for a head node that hangs."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        try:
            return super()._do_request(method, endpoint, timeout=REQUEST_SECONDS, **options)
        except requests.exceptions.ReadTimeout as error:
            raise WaitTimeout(
                f"no answer within {REQUEST_SECONDS:g} s", where=self._address, remedy="check the cluster's head node"
            ) from error


class JobServer:
    def __init__(self, address: str) -> None:
        """address: URL of the dashboard. Raises ConfigError for no URL, ZjError where no job server answers or it refuses us."""
        if urlsplit(address).scheme not in ("http", "https"):
            raise ConfigError(
                f"{address!r} is no URL of a dashboard", where="--address", remedy="for example http://head:8265"
            )
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
            raise ZjError(
                f"this is no Ray job server: {_first_line(error)}", where=address, remedy="give the dashboard's URL"
            ) from error

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
                    remedy = AGENT_REMEDY if starting else "see its dashboard"
                    raise ZjError(
                        f"the cluster refuses the job: {_first_line(error)}", where=self.address, remedy=remedy
                    ) from error
            time.sleep(POLL_SECONDS)

    def state(self, job_id: str) -> str:
        """PENDING, RUNNING or one of ENDED. Raises ZjError for a job that the cluster does not know."""
        return self._known(job_id, self._client.get_job_status).value

    def output(self, job_id: str) -> str:
        return self._known(job_id, self._client.get_job_logs)

    def follow(self, job_id: str, show: Callable[[str], None]) -> None:
        """Give the job's output to `show` as it comes, until the job ends. Raises ZjError if the connection breaks.

        A job may say nothing for hours, so silence alone ends nothing. But a connection whose other end is gone is silent too:
        meanwhile the job server is asked, and WaitTimeout raised if it does not answer, or knows that the job has ended.
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
                    ended = self.state(job_id) in ENDED
                if (text := await coming) is None:
                    return
                show(text)

        try:
            asyncio.run(tail())
        except RuntimeError as error:
            raise ZjError(
                f"lost the job's output: {_first_line(error)}",
                where=self.address,
                remedy="ask again with: zj logs RUN -f",
            ) from error

    def wait(self, job_id: str, *, seconds: float | None = None) -> None:
        """Until the job ended. Raises WaitTimeout after `seconds`; None: as long as the job server says that it runs."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while self.state(job_id) not in ENDED:
            if deadline is not None and time.monotonic() > deadline:
                raise WaitTimeout(
                    f"job {job_id} did not end within {seconds:g} s",
                    where=self.address,
                    remedy="look at it in the dashboard",
                )
            time.sleep(POLL_SECONDS)

    def require_success(self, job_id: str) -> None:
        """Raises ZjError with the exit code of a job that did not succeed."""
        info = self._known(job_id, self._client.get_job_info)
        if info.status.value != "SUCCEEDED":
            code = "" if info.driver_exit_code is None else f" with exit code {info.driver_exit_code}"
            raise ZjError(
                f"job {job_id} ended as {info.status.value}{code}",
                where=self.address,
                remedy="see its output with: zj logs RUN",
            )

    def stop(self, job_id: str) -> None:
        self._known(job_id, self._client.stop_job)

    def _known(self, job_id: str, call: Callable[[str], Any]) -> Any:
        try:
            return call(job_id)
        except (RuntimeError, requests.exceptions.ConnectionError) as error:
            remedy = "if the cluster was made anew, submit the run again"
            raise ZjError(
                f"the cluster can't tell about job {job_id}: {_first_line(error)}", where=self.address, remedy=remedy
            ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
