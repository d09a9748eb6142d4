// Verifies the DKIM signatures of messages, for test_dkim.py: a line of JSON in for each message, a line out.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/emersion/go-msgauth/dkim"
)

type asked struct {
	Message []byte            `json:"message"`
	Records map[string]string `json:"records"`
}

func main() {
	reader := bufio.NewReader(os.Stdin)
	for {
		line, err := reader.ReadBytes('\n')
		if err == io.EOF {
			return
		}
		var each asked
		if err == nil {
			err = json.Unmarshal(line, &each)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		said, _ := json.Marshal(verdicts(each))
		fmt.Println(string(said))
	}
}

// verdicts is "pass" or what is wrong, for each signature from the top.
func verdicts(each asked) []string {
	options := &dkim.VerifyOptions{LookupTXT: func(name string) ([]string, error) {
		record, there := each.Records[strings.TrimSuffix(name, ".")]
		if !there {
			return nil, fmt.Errorf("no record of %s", name)
		}
		return []string{record}, nil
	}}
	found, err := dkim.VerifyWithOptions(bytes.NewReader(each.Message), options)
	if err != nil {
		return []string{err.Error()}
	}
	said := make([]string, len(found))
	for i, verification := range found {
		said[i] = "pass"
		if verification.Err != nil {
			said[i] = verification.Err.Error()
		}
	}
	return said
}
