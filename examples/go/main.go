// Publishes a batch of letters, and reads what became of them.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

type letter struct {
	Subject, Body string
	Addresses     []string
	Token         order
}

type order struct {
	Order int `json:"order"`
}

// report has the fields that are looked at here; the record has more.
type report struct {
	ID, Status string
	Token      order
	Recipients []struct{ Address, Status string }
}

var batch = []letter{
	{
		Subject:   "Your order",
		Body:      "<p>Thank you, Ann: it is on its way.</p>",
		Addresses: []string{"ann@example.test"},
		Token:     order{1},
	},
	{
		Subject:   "Your order",
		Body:      "<p>Thank you, Bob and Carol: it is on its way.</p>",
		Addresses: []string{"bob@example.test", "carol@example.test"},
		Token:     order{2},
	},
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	brokers := strings.Split(setting("KAFKA_BROKERS", "127.0.0.1:9092"), ",")
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	key := "example-" + rand.Text()
	beginAtTheEnd(ctx, client)
	publish(ctx, client, key)
	for _, status := range read(ctx, client, key) {
		if status != "sent" {
			log.Fatal("not all were sent")
		}
	}
}

// beginAtTheEnd has the client read reports from where their topic ends now.
func beginAtTheEnd(ctx context.Context, client *kgo.Client) {
	topic := setting("KAFKA_TOPIC_PROFILE", "mts-to-profile")
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		log.Fatal(err)
	}
	places := map[string]map[int32]kgo.Offset{}
	ends.Each(func(end kadm.ListedOffset) {
		if places[topic] == nil {
			places[topic] = map[int32]kgo.Offset{}
		}
		places[topic][end.Partition] = kgo.NewOffset().At(end.Offset)
	})
	client.AddConsumePartitions(places)
}

// publish publishes the batch as one record, and returns when the broker has it.
func publish(ctx context.Context, client *kgo.Client, key string) {
	value, err := json.Marshal(batch)
	if err != nil {
		log.Fatal(err)
	}
	topic := setting("KAFKA_TOPIC_MAILSENDER", "mts-to-mailsender")
	record := &kgo.Record{Topic: topic, Key: []byte(key), Value: value}
	if err := client.ProduceSync(ctx, record).FirstErr(); err != nil {
		log.Fatal("the batch was not published: ", err)
	}
}

// read reads reports of records with this key until there is one of each letter: their statuses by ID, for a report
// may come twice.
func read(ctx context.Context, client *kgo.Client, key string) map[string]string {
	found := map[string]string{}
	for len(found) < len(batch) {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			log.Fatalf("%d of %d reports came", len(found), len(batch))
		}
		fetches.EachRecord(func(record *kgo.Record) {
			if string(record.Key) != key {
				return
			}
			var one report
			if err := json.Unmarshal(record.Value, &one); err != nil {
				log.Fatal(err)
			}
			if _, known := found[one.ID]; known {
				return
			}
			found[one.ID] = one.Status
			for _, recipient := range one.Recipients {
				fmt.Println("order", one.Token.Order, recipient.Address, recipient.Status)
			}
		})
	}
	return found
}

func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}
