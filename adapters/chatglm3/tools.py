"""What ChatGLM3 is told of its tools, to the letter of its training.

Source: PROMPT.md, tools_using_demo and composite_demo of ChatGLM3 (github.com/zai-org/ChatGLM3).
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from adapters.chatglm3.calls import INTERPRETER
from engine.base import Tool

TOOLS_TEXT = "Answer the following questions as best as you can. You have access to the following tools:"
INTERPRETER_TEXT = (
    "你是一位智能AI助手，你叫ChatGLM，你连接着一台电脑，但请注意不能联网。在使用Python解决任务时，"
    "你可以运行代码并得到结果，如果运行结果有错误，你需要尽可能对代码进行改进。你可以处理用户上传到电脑上的文件，"
    "文件默认存储路径是/mnt/data/。"
)


def system_text(own: str | None, tools: Sequence[Tool]) -> str | None:
    """The text of the system turn: the client's ``own``, then what the model was trained to be told.

    The list of tools stands last, as in training; the code interpreter is not on it, because the model
    knows that one by its own text. None where there is nothing to say.
    """
    listed = [dict(tool.definition) for tool in tools if tool.name != INTERPRETER]
    texts = [] if own is None else [own]
    if len(listed) < len(tools):
        texts += told(own, INTERPRETER_TEXT)
    if listed:
        texts += told(own, TOOLS_TEXT)
        texts.append(json.dumps(listed, indent=4, ensure_ascii=False))
    return "\n".join(texts) if texts else None


def told(own: str | None, text: str) -> list[str]:
    """``text``, unless the client has written it already, at the end."""
    return [] if own is not None and own.rstrip().endswith(text) else [text]


def code_argument(tool: Tool) -> str:
    """The name of the argument that takes the interpreter's code: the tool's first property of type
    string, else ``code``."""
    properties = tool.parameters.get("properties")
    for name, schema in properties.items() if isinstance(properties, dict) else ():
        if isinstance(schema, dict) and schema.get("type") == "string":
            return str(name)
    return "code"
