"""The contract with Flower: every internal of flwr that the relay uses, by name.

Flower calls none of this public. When an flwr is installed in which one of them has moved, the test that fails bears
its name and says so. What the calls do is tested in test_relay.py, on Flower's own server.
"""

import ast
import importlib
import inspect
from importlib.metadata import version
from pathlib import Path
from typing import Any

import flwr.proto.runtime_pb2 as runtime
import pytest
from flwr.supercore.exit import ExitCode
from flwr.supercore.superexec import run_superexec
from flwr.supernode.cli import flower_supernode

from undertone_client.relay import answering, runtime_api

# Each name that the relay imports from flwr, and the parameters that it passes by name; None: a class or a constant
# whose use needs no call that is checked here.
USED: dict[str, set[str] | None] = {
    "flwr.app.Context": {"run_id", "node_id", "node_config", "state", "run_config"},
    "flwr.app.Error": {"code", "reason"},
    "flwr.app.Message": {"reply_to"},
    "flwr.app.RecordDict": None,
    "flwr.common.constant.ErrorCode": None,
    "flwr.common.constant.SubStatus": None,
    "flwr.common.serde.message_from_proto": {"message_proto"},
    "flwr.proto.message_pb2.ObjectTree": None,
    "flwr.proto.node_pb2.Node": None,
    "flwr.proto.runtime_pb2.AcquireTaskRequest": None,
    "flwr.proto.runtime_pb2.PullAppMessagesRequest": None,
    "flwr.proto.runtime_pb2.PullTaskInputRequest": None,
    "flwr.proto.runtime_pb2.PushTaskOutputRequest": None,
    "flwr.proto.runtime_pb2.SendTaskHeartbeatRequest": None,
    "flwr.supercore.constant.TaskType": None,
    "flwr.supercore.heartbeat.HeartbeatSender": {"heartbeat_fn"},
    "flwr.supercore.inflatable.inflatable_object.iterate_object_tree": {"tree"},
    "flwr.supercore.inflatable.inflatable_protobuf_utils.make_confirm_message_received_fn_protobuf": {"node", "run_id"},
    "flwr.supercore.inflatable.inflatable_protobuf_utils.make_pull_object_fn_protobuf": {"node", "run_id"},
    "flwr.supercore.inflatable.inflatable_utils.ObjectPullError": None,
    "flwr.supercore.inflatable.inflatable_utils.ObjectPushError": None,
    "flwr.supercore.inflatable.inflatable_utils.ObjectUnavailableError": None,
    "flwr.supercore.inflatable.inflatable_utils.pull_and_inflate_object_from_tree": {
        "object_tree",
        "pull_object_fn",
        "confirm_object_received_fn",
        "return_type",
    },
    "flwr.supercore.interceptors.RuntimeTokenHttpInterceptor": {"token"},
    "flwr.supercore.interceptors.RuntimeVersionHttpInterceptor": {"component_name"},
    "flwr.supercore.interceptors.SuperExecAuthHttpInterceptor": {"master_secret", "protected_methods"},
    "flwr.supercore.retry.RetryInvoker": {
        "wait_gen_factory",
        "recoverable_exceptions",
        "max_tries",
        "max_time",
        "should_giveup",
    },
    "flwr.supercore.retry.exponential": {"max_delay"},
    "flwr.supercore.runtime.RuntimeHttpClient": None,
    "flwr.supercore.task_identity.TaskIdentity": None,
    "flwr.supernode.runtime.run_clientapp.push_message": {"client", "message", "context"},
}
# Fields of Flower's messages that are read or written.
FIELDS = {
    "AcquireTaskRequest": {"supported_task_types"},
    "AcquireTaskResponse": {"task", "token"},
    "PullTaskInputResponse": {"run", "context", "task_id"},
    "PullAppMessagesResponse": {"messages_list", "message_object_trees"},
    "PushTaskOutputRequest": {"sub_status", "details"},
}
CALLS = ("AcquireTask", "PullTaskInput", "PullMessages", "PullObject", "ConfirmMessageReceived", "PushMessages")
CALLS += ("PushObject", "PushTaskOutput", "SendTaskHeartbeat")


def moved(name: str) -> str:
    return f"flwr {version('flwr')}: {name} is not what the relay uses (undertone_client/relay/runtime_api.py)"


def found(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        raise AssertionError(moved(name)) from None


def parameters(target: Any) -> set[str]:
    return set(inspect.signature(target).parameters)


def test_the_list_names_all_that_the_relay_imports_of_flower() -> None:
    imported = set()
    for module in (runtime_api, answering):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flwr"):
                imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert imported == set(USED)


@pytest.mark.parametrize("name", USED)
def test_is_where_it_was_and_takes_what_it_took(name: str) -> None:
    target, taken = found(name), USED[name]
    if name == "flwr.app.Message":  # *args and overloads: what is passed must be among its keywords
        assert "reply_to" in parameters(target), moved(name)
    elif taken is not None:
        assert taken <= parameters(target), moved(name)


@pytest.mark.parametrize("call", CALLS)
def test_call_of_the_runtime_api(call: str) -> None:
    client = found("flwr.supercore.runtime.RuntimeHttpClient")
    assert hasattr(client, call), moved(call)
    assert parameters(getattr(client, call)) == {"self", "request"}, moved(call)


def test_a_client_is_made_as_it_was() -> None:
    client = found("flwr.supercore.runtime.RuntimeHttpClient")
    wanted = {"server_address", "insecure", "root_certificates", "interceptors", "retry_invoker"}
    assert wanted == parameters(client.from_server_address), moved("RuntimeHttpClient.from_server_address")


@pytest.mark.parametrize("message", FIELDS)
def test_fields_of(message: str) -> None:
    fields = {field.name for field in getattr(runtime, message).DESCRIPTOR.fields}
    assert fields >= FIELDS[message], moved(message)


def test_the_secret_covers_the_one_call_that_gives_tasks() -> None:
    assert runtime_api.ACQUIRE in vars(run_superexec)["_SUPEREXEC_AUTH_METHODS"], moved(runtime_api.ACQUIRE)


def test_options_of_the_supernode() -> None:
    parser = inspect.getmodule(flower_supernode)._parse_args_run_supernode()  # type: ignore[union-attr]
    options = {option for action in parser._actions for option in action.option_strings}
    wanted = {"--superlink", "--isolation", "--superexec-auth-secret-file", "--auth-supernode-private-key"}
    wanted |= {"--root-certificates", "--insecure", "--host", "--port"}
    assert wanted <= options, moved("flower-supernode")


def test_exit_code_of_a_supernode_that_is_not_taken() -> None:
    assert ExitCode.SUPERNODE_CONNECTION_ERROR == 305, moved("exit code 305")


def test_times_that_the_relay_relies_on() -> None:
    """A task that was claimed must be begun in time, and a message that is answered late must still be waited for."""
    claimed = found("flwr.common.constant.HEARTBEAT_DEFAULT_INTERVAL")
    patience = found("flwr.common.constant.HEARTBEAT_PATIENCE")
    assert runtime_api._CALL_SECONDS < claimed <= 30, moved("HEARTBEAT_DEFAULT_INTERVAL")
    assert patience * claimed > 2 * runtime_api._CALL_SECONDS, moved("HEARTBEAT_PATIENCE")


def test_one_that_has_moved_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("flwr.supernode.runtime.run_clientapp.push_message")
    with pytest.raises(
        AssertionError, match=r"flwr [\d.]+: flwr.supernode.runtime.run_clientapp.push_message is not what"
    ):
        test_is_where_it_was_and_takes_what_it_took("flwr.supernode.runtime.run_clientapp.push_message")


def test_one_that_takes_something_else_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flwr.supernode.runtime.run_clientapp.push_message", lambda client, note: None)
    with pytest.raises(AssertionError, match="push_message is not what the relay uses"):
        test_is_where_it_was_and_takes_what_it_took("flwr.supernode.runtime.run_clientapp.push_message")
