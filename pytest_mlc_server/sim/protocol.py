"""The requests that the server accepts.

Field by field what ``mlc_llm serve`` accepts, in its order and with its limits, so that a request
that is wrong gets the same answer (status 422, and the same list of what is wrong with it).
Fields that a request has beyond these are ignored, as they are there.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, model_validator

MAX_CHAT_TOP_LOGPROBS = 20
MAX_COMPLETION_LOGPROBS = 5


def _check_penalty(value: float | None) -> float | None:
    if value is not None and (value < -2 or value > 2):
        raise ValueError("Penalty value should be in range [-2, 2].")
    return value


def _check_logit_bias(value: dict[int, float] | None) -> dict[int, float] | None:
    for token_id, bias in (value or {}).items():
        if abs(bias) > 100:
            raise ValueError(
                "Logit bias value should be in range [-100, 100], while value "
                f"{bias} is given for token id {token_id}"
            )
    return value


def _check_not_empty(value: str | list[Any]) -> str | list[Any]:
    if value == []:
        raise ValueError("Input list must not be empty.")
    return value


Penalty = Annotated[float | None, AfterValidator(_check_penalty)]
LogitBias = Annotated[dict[int, float] | None, AfterValidator(_check_logit_bias)]


class StreamOptions(BaseModel):
    """What a stream holds beside the text."""

    include_usage: bool | None


class RequestResponseFormat(BaseModel):
    """The form that a reply has to have."""

    type: Literal["text", "json_object"] = "text"
    # The request says "schema"; a pydantic model has a method of that name.
    json_schema: str | None = Field(default=None, alias="schema")


class DisaggConfig(BaseModel):
    """Which part of a prompt one server of several computes."""

    kind: Literal["prepare_receive", "remote_send", "start_generation"] | None = None
    kv_append_metadata: str | None = None
    kv_window_begin: int | None = None
    kv_window_end: int | None = None
    dst_group_offset: int | None = None


class DebugConfig(BaseModel):
    """Options that count under ``--enable-debug`` only."""

    ignore_eos: bool = False
    pinned_system_prompt: bool = False
    special_request: Literal["query_engine_metrics"] | None = None
    grammar_execution_mode: Literal["constraint", "jump_forward"] = "jump_forward"
    disagg_config: DisaggConfig | None = None


class ListResponse(BaseModel):
    """What ``GET /v1/models`` answers."""

    object: str = "list"
    data: list[Any]


class EmbeddingRequest(BaseModel):
    """The body of ``POST /v1/embeddings``."""

    input: Annotated[
        str | list[str] | list[int] | list[list[int]], AfterValidator(_check_not_empty)
    ]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None


class CompletionRequest(BaseModel):
    """The body of ``POST /v1/completions``."""

    model: str | None = None
    prompt: str | list[int]
    best_of: int = 1
    echo: bool = False
    frequency_penalty: Penalty = None
    presence_penalty: Penalty = None
    logprobs: int | None = None
    logit_bias: LogitBias = None
    max_tokens: int | None = None
    n: int = 1
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    suffix: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    user: str | None = None
    response_format: RequestResponseFormat | None = None
    debug_config: DebugConfig | None = None

    @model_validator(mode="after")
    def _check_logprobs(self) -> "CompletionRequest":
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_COMPLETION_LOGPROBS:
            raise ValueError(f'"logprobs" must be in range [0, {MAX_COMPLETION_LOGPROBS}]')
        return self


class PrepRecvRequest(CompletionRequest):
    """The body of ``POST /microserving/prep_recv``."""

    end: int


class RemoteSendRequest(CompletionRequest):
    """The body of ``POST /microserving/remote_send``."""

    begin: int
    end: int
    kv_addr_info: str
    recv_rank: int


class PrepRecvResponse(BaseModel):
    """What ``POST /microserving/prep_recv`` answers."""

    kv_append_metadata: str
    prefix_matched_length: int


class StartGenerateRequest(CompletionRequest):
    """The body of ``POST /microserving/start_generate``."""

    begin: int


class ChatFunction(BaseModel):
    """A function that the model may call."""

    description: str | None = None
    name: str
    parameters: dict[Any, Any]


class ChatTool(BaseModel):
    """A tool that the model may use."""

    type: Literal["function"]
    function: ChatFunction


class ChatFunctionCall(BaseModel):
    """The call of a function."""

    name: str
    arguments: dict[str, Any] | None = None


class ChatToolCall(BaseModel):
    """The use of a tool."""

    # The real server makes up an id where there is none; here nothing ever reads it.
    id: str = Field(default_factory=str)
    type: Literal["function"]
    function: ChatFunctionCall


class ChatCompletionMessage(BaseModel):
    """One message of a conversation."""

    content: str | list[dict[Any, Any]] | None = None
    role: Literal["system", "user", "assistant", "tool"]
    name: str | None = None
    tool_calls: list[ChatToolCall] | None = None
    tool_call_id: str | None = None


class ChatCompletionRequest(BaseModel):
    """The body of ``POST /v1/chat/completions``."""

    messages: list[ChatCompletionMessage]
    model: str | None = None
    frequency_penalty: Penalty = None
    presence_penalty: Penalty = None
    logprobs: bool = False
    top_logprobs: int = 0
    logit_bias: LogitBias = None
    max_tokens: int | None = None
    n: int = 1
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[ChatTool] | None = None
    tool_choice: Literal["none", "auto"] | dict[Any, Any] | None = None
    user: str | None = None
    response_format: RequestResponseFormat | None = None
    debug_config: DebugConfig | None = None

    @model_validator(mode="after")
    def _check_logprobs(self) -> "ChatCompletionRequest":
        if not 0 <= self.top_logprobs <= MAX_CHAT_TOP_LOGPROBS:
            raise ValueError(f'"top_logprobs" must be in range [0, {MAX_CHAT_TOP_LOGPROBS}]')
        if self.top_logprobs > 0 and not self.logprobs:
            raise ValueError('"logprobs" must be True to support "top_logprobs"')
        return self

    @model_validator(mode="after")
    def _check_stream_options(self) -> "ChatCompletionRequest":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream must be set to True when stream_options is present")
        return self

    @model_validator(mode="after")
    def _check_special_request(self) -> "ChatCompletionRequest":
        if self.debug_config is None or self.debug_config.special_request is None:
            return self
        if not self.stream:
            raise ValueError("DebugConfig.special_request requires stream=True")
        if self.stream_options is None or not self.stream_options.include_usage:
            raise ValueError("DebugConfig.special_request requires include_usage in stream_options")
        return self


AnyRequest = CompletionRequest | ChatCompletionRequest
