"""As much of the shell's grammar as scripts of tests need: lists, pipes, `if`, `while`, redirections, quotes and expansions."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import Literal

Part = Literal["text", "variable", "command", "arithmetic"]
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
OPERATORS = ("&&", "||", ">>", ";", "&", "|", "<", ">", "(", ")", "\n")
SPECIAL_VARIABLES = "?$!#0123456789@*"
RESERVED = ("then", "elif", "else", "fi", "do", "done", "}")


class ShellSyntaxError(Exception):
    """What the shell would print of it."""


@dataclass(frozen=True)
class Piece:
    """A part of a word. `text` is the text, the variable's name, or the arithmetic's expression."""

    kind: Part
    text: str = ""
    quoted: bool = False
    script: Script | None = None


Word = tuple[Piece, ...]


@dataclass(frozen=True)
class Redirect:
    """`descriptor` 0, 1 or 2; `target` a file's name, or the descriptor that it joins."""

    descriptor: int
    operator: Literal["<", ">", ">>"]
    target: Word | int


@dataclass(frozen=True)
class Simple:
    assignments: tuple[tuple[str, Word], ...]
    words: tuple[Word, ...]
    redirects: tuple[Redirect, ...] = ()


@dataclass(frozen=True)
class If:
    branches: tuple[tuple[Script, Script], ...]  # condition and what is done
    otherwise: Script | None
    redirects: tuple[Redirect, ...] = ()


@dataclass(frozen=True)
class While:
    condition: Script
    body: Script
    until: bool
    redirects: tuple[Redirect, ...] = ()


@dataclass(frozen=True)
class Group:
    body: Script
    subshell: bool
    redirects: tuple[Redirect, ...] = ()


Command = Simple | If | While | Group


@dataclass(frozen=True)
class Pipeline:
    commands: tuple[Command, ...]
    negated: bool = False


@dataclass(frozen=True)
class Item:
    """One pipeline of a list: run if the one before it ended in the way that `after` asks for."""

    after: Literal["", "&&", "||"]
    pipeline: Pipeline


@dataclass(frozen=True)
class Script:
    """Lists in order; those that end in `&` run in the background."""

    lists: tuple[tuple[tuple[Item, ...], bool], ...] = field(default=())


@functools.lru_cache(maxsize=512)  # a thousand guests are asked the same
def parse(text: str) -> Script:
    """ShellSyntaxError if it is no script that this shell understands."""
    parser = _Parser(text)
    script = parser.script(())
    if parser.token is not None:
        raise parser.unexpected()
    return script


class _Parser:
    """`token`: the operator at hand (a string), the word at hand (a tuple), or None at the end."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self.token: str | Word | None = None
        self._advance()

    # Words.

    def _advance(self) -> None:
        text = self._text
        while self._at < len(text):
            if text[self._at] in " \t" or text.startswith("\\\n", self._at):
                self._at += 2 if text[self._at] == "\\" else 1
            elif text[self._at] == "#":
                end = text.find("\n", self._at)
                self._at = len(text) if end < 0 else end
            else:
                break
        if self._at >= len(text):
            self.token = None
            return
        operator = next((each for each in OPERATORS if text.startswith(each, self._at)), None)
        if operator:
            self._at += len(operator)
            self.token = operator
        else:
            self.token = self._word()

    def _word(self) -> Word:
        pieces: list[Piece] = []
        text = self._text
        while self._at < len(text) and text[self._at] not in " \t\n;&|<>()":
            character = text[self._at]
            if character == "'":
                end = text.find("'", self._at + 1)
                if end < 0:
                    raise ShellSyntaxError("syntax error: No closing quotation")
                pieces.append(Piece("text", text[self._at + 1:end], quoted=True))
                self._at = end + 1
            elif character == '"':
                self._at += 1
                pieces.extend(self._double_quoted())
            elif character == "\\":
                pieces.append(Piece("text", text[self._at + 1:self._at + 2], quoted=True))
                self._at += 2
            elif character == "$":
                pieces.append(self._expansion(quoted=False))
            else:
                start = self._at
                while self._at < len(text) and text[self._at] not in " \t\n;&|<>()'\"\\$":
                    self._at += 1
                pieces.append(Piece("text", text[start:self._at]))
        return tuple(pieces)

    def _double_quoted(self) -> list[Piece]:
        pieces, plain = [Piece("text", "", quoted=True)], ""
        text = self._text
        while True:
            if self._at >= len(text):
                raise ShellSyntaxError("syntax error: No closing quotation")
            character = text[self._at]
            if character == '"':
                self._at += 1
                return [*pieces, Piece("text", plain, quoted=True)]
            if character == "\\" and text[self._at + 1:self._at + 2] in ("$", '"', "\\", "`"):
                plain += text[self._at + 1]
                self._at += 2
            elif character == "$":
                pieces.append(Piece("text", plain, quoted=True))
                plain = ""
                pieces.append(self._expansion(quoted=True))
            else:
                plain += character
                self._at += 1

    def _expansion(self, quoted: bool) -> Piece:
        text = self._text
        if text.startswith("$((", self._at):
            end = self._closing(self._at + 3)
            if text.startswith("))", end):
                inner = text[self._at + 3:end]
                self._at = end + 2
                return Piece("arithmetic", inner, quoted)
        if text.startswith("$(", self._at):
            end = self._closing(self._at + 2)
            inner = text[self._at + 2:end]
            self._at = end + 1
            return Piece("command", inner, quoted, parse(inner))
        if text.startswith("${", self._at):
            end = text.find("}", self._at)
            name = text[self._at + 2:end]
            if end < 0 or not (NAME.fullmatch(name) or (len(name) == 1 and name in SPECIAL_VARIABLES)):
                raise ShellSyntaxError(f"${{{name}}}: bad substitution")
            self._at = end + 1
            return Piece("variable", name, quoted)
        found = NAME.match(text, self._at + 1)
        if found:
            self._at = found.end()
            return Piece("variable", found[0], quoted)
        if text[self._at + 1:self._at + 2] and text[self._at + 1] in SPECIAL_VARIABLES:
            self._at += 2
            return Piece("variable", text[self._at - 1], quoted)
        self._at += 1
        return Piece("text", "$", quoted)

    def _closing(self, start: int) -> int:
        """Where the parenthesis closes that was open before `start`; quotes hide those inside them."""
        depth, quote = 1, ""
        for position in range(start, len(self._text)):
            character = self._text[position]
            if quote:
                quote = "" if character == quote else quote
            elif character in "'\"":
                quote = character
            elif character in "()":
                depth += 1 if character == "(" else -1
                if depth == 0:
                    return position
        raise ShellSyntaxError("syntax error: unexpected end of file")

    # The grammar.

    def unexpected(self) -> ShellSyntaxError:
        if self.token is None:
            return ShellSyntaxError("syntax error: unexpected end of file")
        told = "newline" if self.token == "\n" else self.token if isinstance(self.token, str) else self._plain() or "word"
        return ShellSyntaxError(f"syntax error near unexpected token `{told}'")

    def _plain(self) -> str | None:
        """The word at hand, if it has no quotes or expansions: only such can be reserved."""
        if isinstance(self.token, tuple) and len(self.token) == 1 and self.token[0].kind == "text" and not self.token[0].quoted:
            return self.token[0].text
        return None

    def _expect(self, word: str) -> None:
        if self._plain() != word and self.token != word:
            raise self.unexpected()
        self._advance()

    def _skip_newlines(self) -> None:
        while self.token == "\n":
            self._advance()

    def script(self, ends: tuple[str, ...]) -> Script:
        """Lists up to a reserved word of `ends`, a closing parenthesis or the end."""
        lists: list[tuple[tuple[Item, ...], bool]] = []
        while True:
            self._skip_newlines()
            if self.token is None or self.token == ")" or self._plain() in ends:
                return Script(tuple(lists))
            items = [Item("", self._pipeline())]
            while self.token in ("&&", "||"):
                after: Literal["&&", "||"] = "&&" if self.token == "&&" else "||"
                self._advance()
                self._skip_newlines()
                items.append(Item(after, self._pipeline()))
            lists.append((tuple(items), self.token == "&"))
            if self.token in (";", "&", "\n"):
                self._advance()
            elif self.token is not None and self.token != ")" and self._plain() not in ends:
                raise self.unexpected()

    def _pipeline(self) -> Pipeline:
        negated = self._plain() == "!"
        if negated:
            self._advance()
        commands = [self._command()]
        while self.token == "|":
            self._advance()
            self._skip_newlines()
            commands.append(self._command())
        return Pipeline(tuple(commands), negated)

    def _command(self) -> Command:
        word = self._plain()
        if word == "if":
            return self._if()
        if word in ("while", "until"):
            self._advance()
            condition = self.script(("do",))
            self._expect("do")
            body = self.script(("done",))
            self._expect("done")
            return While(condition, body, word == "until", self._redirects())
        if self.token == "(" or word == "{":
            self._advance()
            body = self.script(("}",))
            self._expect(")" if word is None else "}")
            return Group(body, word is None, self._redirects())
        if word in RESERVED or (not isinstance(self.token, tuple) and self.token not in ("<", ">", ">>")):
            raise self.unexpected()
        return self._simple()

    def _if(self) -> If:
        branches, otherwise = [], None
        self._advance()
        while True:
            condition = self.script(("then",))
            self._expect("then")
            branches.append((condition, self.script(("elif", "else", "fi"))))
            word = self._plain()
            if word == "elif":
                self._advance()
                continue
            if word == "else":
                self._advance()
                otherwise = self.script(("fi",))
            self._expect("fi")
            return If(tuple(branches), otherwise, self._redirects())

    def _redirects(self) -> tuple[Redirect, ...]:
        found = []
        while (redirect := self._redirect()) is not None:
            found.append(redirect)
        return tuple(found)

    def _redirect(self) -> Redirect | None:
        descriptor: int | None = None
        # A digit joined to the operator is a descriptor; apart from it, a word.
        if self._plain() in ("0", "1", "2") and self._text[self._at:self._at + 1] in ("<", ">"):
            descriptor = int(self._plain() or 0)
            self._advance()
        if self.token not in ("<", ">", ">>"):
            return None
        operator: Literal["<", ">", ">>"] = "<" if self.token == "<" else ">>" if self.token == ">>" else ">"
        self._advance()
        if self.token == "&":
            self._advance()
            joined = self._plain() or ""
            if joined not in ("0", "1", "2"):
                raise self.unexpected()
            self._advance()
            return Redirect(1 if descriptor is None else descriptor, operator, int(joined))
        if not isinstance(self.token, tuple):
            raise self.unexpected()
        target = self.token
        self._advance()
        return Redirect((0 if operator == "<" else 1) if descriptor is None else descriptor, operator, target)

    def _simple(self) -> Simple:
        assignments: list[tuple[str, Word]] = []
        words: list[Word] = []
        redirects: list[Redirect] = []
        while True:
            redirect = self._redirect()
            if redirect is not None:
                redirects.append(redirect)
                continue
            if not isinstance(self.token, tuple):
                return Simple(tuple(assignments), tuple(words), tuple(redirects))
            first = self.token[0] if self.token else Piece("text")
            named = ASSIGNMENT.match(first.text) if not words and first.kind == "text" and not first.quoted else None
            if named:
                rest = Piece("text", first.text[named.end():])
                assignments.append((named[0][:-1], (rest, *self.token[1:])))
            else:
                words.append(self.token)
            self._advance()


# Arithmetic: whole numbers, as between $(( and )).

_LEVELS = (("||",), ("&&",), ("==", "!="), ("<=", ">=", "<", ">"), ("+", "-"), ("*", "/", "%"))
_TOKEN = re.compile(r"\s*(\d+|\|\||&&|[<>=!]=|[-+*/%<>!()])")


def evaluate(text: str) -> int:
    """ShellSyntaxError if it is no expression, ZeroDivisionError."""
    tokens, at = [], 0
    while text[at:].strip():
        found = _TOKEN.match(text, at)
        if not found:
            raise ShellSyntaxError("syntax error in expression")
        tokens.append(found[1])
        at = found.end()
    value = _binary(tokens, 0)
    if tokens:
        raise ShellSyntaxError("syntax error in expression")
    return value


def _binary(tokens: list[str], level: int) -> int:
    if level == len(_LEVELS):
        return _unary(tokens)
    left = _binary(tokens, level + 1)
    while tokens and tokens[0] in _LEVELS[level]:
        operator = tokens.pop(0)
        left = _apply(operator, left, _binary(tokens, level + 1))
    return left


def _unary(tokens: list[str]) -> int:
    token = tokens.pop(0) if tokens else ""
    if token == "(":
        value = _binary(tokens, 0)
        if not tokens or tokens.pop(0) != ")":
            raise ShellSyntaxError("syntax error in expression")
        return value
    if token in ("-", "+", "!"):
        value = _unary(tokens)
        return -value if token == "-" else value if token == "+" else int(not value)
    if not token.isdigit():
        raise ShellSyntaxError("syntax error in expression")
    return int(token)


def _apply(operator: str, left: int, right: int) -> int:
    if operator in ("/", "%"):
        quotient = abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)  # towards zero, as in C
        return quotient if operator == "/" else left - quotient * right
    match operator:
        case "||":
            return int(bool(left or right))
        case "&&":
            return int(bool(left and right))
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
    return int({"==": left == right, "!=": left != right, "<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[operator])
