"""XML of labels: small files in any encoding, whose elements know their lines.

A document type is refused, so none can declare entities, and so is deep nesting.
"""

import re
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

DEEPEST = 64
"""Elements within one another; labels have five."""
_ENCODING = re.compile(rb"\s*<\?xml[^>]{0,200}?\sencoding\s*=\s*[\"']([^\"'>]{1,40})[\"']")
_NATIVE = ("utf-8", "utf-16", "iso-8859-1", "us-ascii")
"""Encodings of expat itself."""


class XmlError(ValueError):
    """line: where it is wrong, None where that is not known."""

    def __init__(self, text: str, line: int | None = None) -> None:
        super().__init__(text)
        self.line = line


class Document:
    """root: the outermost element. lines: of the elements."""

    def __init__(self, data: bytes) -> None:
        """Raises XmlError."""
        self.lines: dict[ElementTree.Element, int] = {}
        self._depth = 0
        builder = ElementTree.TreeBuilder()
        encoding, data = _decoded(data)
        parser = expat.ParserCreate(encoding)

        def start(tag: str, attributes: dict[str, Any]) -> None:
            self._depth += 1
            if self._depth > DEEPEST:
                raise XmlError(f"more than {DEEPEST} elements within one another", parser.CurrentLineNumber)
            self.lines[builder.start(tag, attributes)] = parser.CurrentLineNumber

        def end(tag: str) -> None:
            self._depth -= 1
            builder.end(tag)

        def refuse(*_: Any) -> None:
            raise XmlError("declares a document type (<!DOCTYPE>), which labels have no need of")

        parser.StartElementHandler = start
        parser.EndElementHandler = end
        parser.CharacterDataHandler = builder.data
        parser.StartDoctypeDeclHandler = refuse
        try:
            parser.Parse(data, True)
        except expat.ExpatError as error:
            raise XmlError(f"not XML: {expat.ErrorString(error.code)}", error.lineno) from None
        except XmlError:
            raise
        except (LookupError, ValueError) as error:  # of an encoding declared in UTF-16
            raise XmlError(f"declares an encoding that is not known: {error}") from None
        self.root: ElementTree.Element = builder.close()


def _decoded(data: bytes) -> tuple[str | None, bytes]:
    """What expat reads: an encoding that it does not know itself is decoded first."""
    declared = _ENCODING.match(data)
    if declared is None or (name := declared[1].decode("latin-1")).lower() in _NATIVE:
        return None, data
    try:
        return "utf-8", data.decode(name).encode()
    except UnicodeError as error:
        raise XmlError(f"declares the encoding {name!r}, but {error}") from None
    except (LookupError, ValueError):
        raise XmlError(f"declares the unknown encoding {name!r}, expected one such as utf-8") from None
