// Reads messages as Go's standard library does, which takes nothing that RFC 5322 and MIME do not allow, for
// test_mime.py: a line of JSON in for each message, a line out with what a reader finds in it.
package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"net/textproto"
	"os"
	"strings"
	"time"
)

type person struct {
	Name    string `json:"name"`
	Address string `json:"address"`
}

var words = &mime.WordDecoder{}

func main() {
	reader := bufio.NewReaderSize(os.Stdin, 1<<20)
	for {
		line, err := reader.ReadBytes('\n')
		if err == io.EOF {
			return
		}
		var asked struct {
			Message []byte `json:"message"`
		}
		if err == nil {
			err = json.Unmarshal(line, &asked)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		found, err := read(asked.Message)
		if err != nil {
			found = map[string]any{"wrong": err.Error()}
		}
		said, _ := json.Marshal(found)
		fmt.Println(string(said))
	}
}

func read(raw []byte) (map[string]any, error) {
	message, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	found := map[string]any{"message_id": message.Header.Get("Message-ID")}
	when, err := message.Header.Date()
	if err != nil {
		return nil, err
	}
	found["date"] = when.UTC().Format(time.RFC3339)
	for name, key := range map[string]string{"Subject": "subject"} {
		if found[key], err = words.DecodeHeader(message.Header.Get(name)); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	for name, key := range map[string]string{
		"From": "from", "Sender": "sender", "Reply-To": "reply_to", "To": "to", "Cc": "cc",
	} {
		if found[key], err = people(message.Header, name); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	for name, key := range map[string]string{"In-Reply-To": "in_reply_to", "References": "references"} {
		found[key] = strings.Fields(message.Header.Get(name))
	}
	found["auto_submitted"] = message.Header.Get("Auto-Submitted")
	found["importance"] = message.Header.Get("Importance")
	found["unsubscribe"] = message.Header.Get("List-Unsubscribe")
	others := map[string][]string{}
	for name, values := range message.Header {
		for _, value := range values {
			text, err := words.DecodeHeader(value)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			others[name] = append(others[name], text)
		}
	}
	found["headers"] = others
	found["parts"], err = part(textproto.MIMEHeader(message.Header), message.Body)
	return found, err
}

// people are those that an address header names; none where it is not there, or an empty group.
func people(header mail.Header, name string) ([]person, error) {
	found := []person{}
	if header.Get(name) == "" {
		return found, nil
	}
	parser := mail.AddressParser{WordDecoder: words}
	several, err := parser.ParseList(header.Get(name))
	for _, each := range several {
		found = append(found, person{each.Name, each.Address})
	}
	return found, err
}

func part(header textproto.MIMEHeader, body io.Reader) (map[string]any, error) {
	kind, parameters, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil {
		return nil, fmt.Errorf("Content-Type: %w", err)
	}
	encoding := strings.ToLower(header.Get("Content-Transfer-Encoding"))
	if strings.HasPrefix(kind, "multipart/") {
		if encoding != "7bit" && encoding != "8bit" {
			return nil, fmt.Errorf("a %s in %s", kind, encoding)
		}
		return several(kind, parameters["boundary"], body)
	}
	switch encoding {
	case "base64":
		body = base64.NewDecoder(base64.StdEncoding, body)
	case "quoted-printable":
		body = quotedprintable.NewReader(body)
	case "7bit", "8bit":
	default:
		return nil, fmt.Errorf("an encoding that is none: %q", encoding)
	}
	content, err := io.ReadAll(body)
	if err != nil {
		return nil, fmt.Errorf("%s in %s: %w", kind, encoding, err)
	}
	if header.Get("Content-Disposition") == "" {
		return map[string]any{"type": kind, "text": string(content), "method": parameters["method"]}, nil
	}
	disposition, named, err := mime.ParseMediaType(header.Get("Content-Disposition"))
	if err != nil {
		return nil, fmt.Errorf("Content-Disposition: %w", err)
	}
	digest := sha256.Sum256(content)
	return map[string]any{
		"type":       kind,
		"name":       named["filename"],
		"inline":     disposition == "inline",
		"content_id": strings.Trim(header.Get("Content-Id"), "<>"),
		"size":       len(content),
		"sha256":     hex.EncodeToString(digest[:]),
	}, nil
}

func several(kind, boundary string, body io.Reader) (map[string]any, error) {
	reader := multipart.NewReader(body, boundary)
	parts := []map[string]any{}
	for {
		each, err := reader.NextRawPart()
		if err == io.EOF {
			return map[string]any{"type": kind, "parts": parts}, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", kind, err)
		}
		found, err := part(each.Header, each)
		if err != nil {
			return nil, err
		}
		parts = append(parts, found)
	}
}
