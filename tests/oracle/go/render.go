// Renders chats by Go's text/template with the variables that Ollama gives (ollama, template/template.go): reads
// {"template": …, "chats": [[{"role", "content"}]]} as JSON, writes the texts as a JSON list.
package main

import (
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type asked struct {
	Template string      `json:"template"`
	Chats    [][]message `json:"chats"`
}

func main() {
	var in asked
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		panic(err)
	}
	made := template.Must(template.New("").Option("missingkey=zero").Parse(in.Template))
	texts := []string{}
	for _, chat := range in.Chats {
		var system []string
		for _, turn := range chat {
			if turn.Role == "system" {
				system = append(system, turn.Content)
			}
		}
		values := map[string]any{"System": strings.Join(system, "\n\n"), "Messages": chat, "Response": ""}
		var out strings.Builder
		if err := made.Execute(&out, values); err != nil {
			panic(err)
		}
		texts = append(texts, out.String())
	}
	if err := json.NewEncoder(os.Stdout).Encode(texts); err != nil {
		panic(err)
	}
}
